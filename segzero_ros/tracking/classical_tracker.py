"""Following objects without weights or a GPU: by their shape, their colours and their motion.

Each object is looked for where points that can be followed have moved, then where its colours fit
best; its mask is what its colours say inside its shape, so that it neither grows onto what passes
in front of it nor forgets what that hides. What is lost is said to be lost, and searched for by
its looks.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import NamedTuple

import cv2
import numpy as np

from segzero_ros.tracking import base
from segzero_ros.tracking.classical_object import ImageFeatures, Sighting, TrackedObject
from segzero_ros.tracking.colour_model import Floats
from segzero_ros.types import BadImage, Frame, Mask, Segment, Track


class Bar(NamedTuple):
    """What a sighting has to reach to be taken for true.

    Attributes:
        visible: share of the object that is visible.
        fit: how well its colours fit, as a share of how well they did in the answer's picture.
        agreement: how well shape and colours agree, as a share of the same.
        likeness: how like the answer's object its colours are together, 0 to 1.
    """

    visible: float
    fit: float
    agreement: float
    likeness: float


# To stay in sight; to be found again where it was lost, at first in part; to be found elsewhere.
STAY = Bar(0.12, 0.35, -math.inf, 0.0)
APPEAR = Bar(0.45, 0.6, 0.25, 0.6)
TURN_UP = Bar(0.6, 0.7, 0.65, 0.8)
# How much of the object has to be visible for its looks to be learnt, and for its shape.
LOOKS, SHAPE = 0.7, 0.88
# Parts of a mask smaller than this share of it are no part of the object.
SPECK = 0.05


class ClassicalTracker:
    """Follows objects in images of one size."""

    name = 'classical'

    def __init__(self) -> None:
        self._objects: list[TrackedObject] = []
        self._turn = 0

    def start(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Forget what was followed until now, and follow these objects of the frame."""
        self._objects = []
        self.add(frame, segments)

    def add(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Follow these objects of the frame too."""
        self._check_size(frame)
        followed = (known.segment.id for known in self._objects)
        picture = ImageFeatures.of(frame)
        self._objects += [
            TrackedObject(picture, segment) for segment in base.trackable(segments, followed)
        ]

    def step(self, frame: Frame) -> list[Track]:
        """Find every followed object in the next frame."""
        self._check_size(frame)
        picture = ImageFeatures.of(frame)
        sightings = [(known, known.look(picture)) for known in self._objects]
        # Who was in sight claims first: nobody is found again on another one's pixels.
        claims = np.full(picture.gray.shape, -math.inf, np.float32)
        for known, sighting in sightings:
            if not known.age:
                part = claims[sighting.roi.slices]
                np.maximum(part, sighting.claim, out=part)
        for known, sighting in sorted(sightings, key=lambda pair: pair[0].age):
            if not self._accept(known, picture, sighting, claims, APPEAR if known.age else STAY):
                known.miss(picture)
        self._search(picture, claims)
        return [_track(known) for known in self._objects]

    def close(self) -> None:
        """Forget everything."""
        self._objects = []

    def _check_size(self, frame: Frame) -> None:
        for known in self._objects:
            if known.picture.gray.shape != frame.image.shape[:2]:
                height, width = known.picture.gray.shape
                raise BadImage(
                    f'Objects are followed in images of {width}x{height} pixels, but this one has '
                    f'{frame.width}x{frame.height}: start anew.'
                )

    def _accept(
        self,
        known: TrackedObject,
        picture: ImageFeatures,
        sighting: Sighting,
        claims: Floats,
        bar: Bar,
    ) -> bool:
        """Take a sighting for true if it reaches the bar, learn from it, and say whether."""
        rival, claim = claims[sighting.roi.slices], sighting.claim
        mine = claim > rival if known.age else claim >= rival
        mask = np.zeros(picture.gray.shape, np.bool_)
        mask[sighting.roi.slices] = _without_specks(mine & (claim > 0))
        visible = float(mask.sum()) / max(sighting.expected, 1.0)
        if (
            visible < bar.visible
            or sighting.fit < bar.fit * known.fit
            or sighting.agreement < bar.agreement * known.agreement
            or sighting.likeness < bar.likeness
        ):
            return False
        known.see(picture, sighting, mask, visible)
        known.learn(sighting, looks=visible >= LOOKS, shape=visible >= SHAPE)
        np.copyto(rival, claim, where=mask[sighting.roi.slices])
        return True

    def _search(self, picture: ImageFeatures, claims: Floats) -> None:
        """Search the whole picture for one of the objects that are lost, each in its turn."""
        missing = [known for known in self._objects if known.age]
        if not missing:
            return
        self._turn += 1
        known = missing[self._turn % len(missing)]
        place = known.search(picture, claims > 0)
        if place is not None:
            self._accept(known, picture, known.look_at(picture, place), claims, TURN_UP)


def _track(known: TrackedObject) -> Track:
    if known.age:
        return base.lost(known.segment, known.age)
    return base.found(known.segment, known.mask, math.nan)


def _without_specks(mask: Mask) -> Mask:
    count, labels, figures, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count <= 2:
        return mask
    areas = figures[:, cv2.CC_STAT_AREA]
    keep = areas >= SPECK * areas[1:].sum()
    keep[0] = False
    kept: Mask = keep[labels]
    return kept
