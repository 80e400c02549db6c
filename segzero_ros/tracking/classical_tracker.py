"""Track objects by shape, colour and motion, without weights or a GPU.

Each object's motion is estimated from tracked points and refined by its colours. Its mask combines
colours and shape, so that it neither grows onto an occluder nor loses the occluded part. An object
that is not found is reported as lost, and searched for by its colours.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import NamedTuple

import cv2
import numpy as np

from segzero_ros.tracking import base
from segzero_ros.tracking.classical_object import Candidate, ImageFeatures, TrackedObject
from segzero_ros.tracking.colour_model import Floats
from segzero_ros.types import BadImage, Frame, Mask, Segment, Track


class Thresholds(NamedTuple):
    """Minimum values for accepting a candidate.

    Attributes:
        visible: visible share of the object.
        fit: match of its colours, as a share of the match in the answer's image.
        agreement: match of shape and colours, as a share of the match in the answer's image.
        similarity: of its colours to the answer's object, 0 to 1.
    """

    visible: float
    fit: float
    agreement: float
    similarity: float


# To keep tracking; to find it again where it was lost, maybe partly hidden; to find it elsewhere.
# benchmarks/tracking.py measures their effect.
KEEP = Thresholds(0.12, 0.35, -math.inf, 0.0)
REAPPEAR = Thresholds(0.45, 0.6, 0.25, 0.6)
SEARCH = Thresholds(0.6, 0.7, 0.65, 0.8)
# Visible share of the object from which its colours, and its shape, are learnt.
LEARN_COLOURS, LEARN_SHAPE = 0.7, 0.88
# Components smaller than this share of a mask are removed.
MIN_COMPONENT = 0.05


class ClassicalTracker:
    """Tracks objects in images of one size."""

    name = 'classical'

    def __init__(self) -> None:
        self._objects: list[TrackedObject] = []
        self._search_count = 0

    def start(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Track these objects instead of the previous ones."""
        self._objects = []
        self.add(frame, segments)

    def add(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Track these objects in addition to the previous ones."""
        self._check_size(frame)
        tracked_ids = (tracked.segment.id for tracked in self._objects)
        features = ImageFeatures.of(frame)
        self._objects += [
            TrackedObject(features, segment) for segment in base.trackable(segments, tracked_ids)
        ]

    def step(self, frame: Frame) -> list[Track]:
        """Find every tracked object in the next frame."""
        self._check_size(frame)
        features = ImageFeatures.of(frame)
        candidates = [(tracked, tracked.locate(features)) for tracked in self._objects]
        # Visible objects claim their pixels first, so that no lost one is found on them.
        claims = np.full(features.gray.shape, -math.inf, np.float32)
        for tracked, candidate in candidates:
            if not tracked.age:
                part = claims[candidate.roi.slices]
                np.maximum(part, candidate.image_odds, out=part)
        for tracked, candidate in sorted(candidates, key=lambda pair: pair[0].age):
            thresholds = REAPPEAR if tracked.age else KEEP
            if not self._accept(tracked, features, candidate, claims, thresholds):
                tracked.mark_lost(features)
        self._search(features, claims)
        return [_track(tracked) for tracked in self._objects]

    def close(self) -> None:
        """Free the memory."""
        self._objects = []

    def _check_size(self, frame: Frame) -> None:
        for tracked in self._objects:
            if tracked.features.gray.shape != frame.image.shape[:2]:
                height, width = tracked.features.gray.shape
                raise BadImage(
                    f'Objects are tracked in images of {width}x{height} pixels, but this one has '
                    f'{frame.width}x{frame.height}: restart tracking.'
                )

    def _accept(
        self,
        tracked: TrackedObject,
        features: ImageFeatures,
        candidate: Candidate,
        claims: Floats,
        thresholds: Thresholds,
    ) -> bool:
        """Accept a candidate that reaches the thresholds and learn from it; return whether."""
        claimed, odds = claims[candidate.roi.slices], candidate.image_odds
        own = odds > claimed if tracked.age else odds >= claimed
        mask = np.zeros(features.gray.shape, np.bool_)
        mask[candidate.roi.slices] = _without_small_components(own & (odds > 0))
        visible = float(mask.sum()) / max(candidate.expected, 1.0)
        if (
            visible < thresholds.visible
            or candidate.fit < thresholds.fit * tracked.fit
            or candidate.agreement < thresholds.agreement * tracked.agreement
            or candidate.similarity < thresholds.similarity
        ):
            return False
        tracked.accept(features, candidate, mask, visible)
        tracked.learn(candidate, colours=visible >= LEARN_COLOURS, shape=visible >= LEARN_SHAPE)
        np.copyto(claimed, odds, where=mask[candidate.roi.slices])
        return True

    def _search(self, features: ImageFeatures, claims: Floats) -> None:
        """Search the whole image for one of the lost objects, in turn."""
        lost = [tracked for tracked in self._objects if tracked.age]
        if not lost:
            return
        self._search_count += 1
        tracked = lost[self._search_count % len(lost)]
        to_image = tracked.search(features, claims > 0)
        if to_image is not None:
            candidate = tracked.locate_near(features, to_image)
            self._accept(tracked, features, candidate, claims, SEARCH)


def _track(tracked: TrackedObject) -> Track:
    if tracked.age:
        return base.lost(tracked.segment, tracked.age)
    return base.found(tracked.segment, tracked.mask, math.nan)


def _without_small_components(mask: Mask) -> Mask:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count <= 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    large = areas >= MIN_COMPONENT * areas[1:].sum()
    large[0] = False
    result: Mask = large[labels]
    return result
