"""Rendered scenes for the mini reasoner, with their ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero_ros.simulation.scenes import make_scene, SceneObject, Sentence
from segzero_ros.simulation.sentences import with_sentences
from segzero_ros.types import RgbImage

# Half the usual size renders in a third of the time; the model's input is smaller still.
WIDTH, HEIGHT = 320, 240
LABELS = 112
_PER_KIND = 6


@dataclass(frozen=True, eq=False)
class RenderedScene:
    """The ground truth of a rendered scene.

    Attributes:
        seed: of the scene.
        objects: as in the scene, in pixels of WIDTH by HEIGHT.
        sentences: the queries.
        labels: (LABELS, LABELS) uint8 ids of the visible objects in the resized image, 0 for
            none.
        points: for each object an inner pixel (x, y) of its visible part.
    """

    seed: int
    objects: tuple[SceneObject, ...]
    sentences: tuple[Sentence, ...]
    labels: NDArray[np.uint8]
    points: tuple[tuple[float, float], ...]


def render_scene(seed: int, side: int) -> tuple[RgbImage, RenderedScene]:
    """Render a scene; return its image, resized to (side, side, 3) uint8, and its truth."""
    scene = make_scene(seed, width=WIDTH, height=HEIGHT, depth_noise=0.0, sentences=False)
    scene = with_sentences(scene, np.random.default_rng((seed, 1)), _PER_KIND)
    resized = Image.fromarray(scene.frame.image).resize((side, side), Image.Resampling.BILINEAR)
    labels = np.maximum(scene.labels, 0).astype(np.uint8)
    points = tuple(_inner_point(labels == item.id) for item in scene.objects)
    small = cv2.resize(labels, (LABELS, LABELS), interpolation=cv2.INTER_NEAREST)
    rendered = RenderedScene(
        seed, scene.objects, scene.sentences, np.asarray(small, np.uint8), points
    )
    return np.asarray(resized), rendered


def _inner_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the pixel of a mask farthest from its border."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(column) - 0.5, float(row) - 0.5
