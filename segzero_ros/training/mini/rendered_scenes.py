"""Generated scenes, each rendered once: what a small reasoner sees of them, and their truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segzero_ros.simulation.scenes import make_scene, SceneObject, Sentence
from segzero_ros.simulation.sentences import with_sentences
from segzero_ros.types import RgbImage

# Half the usual size is drawn in a third of the time; the model sees less than that.
WIDTH, HEIGHT = 320, 240
LABELS = 112
_PER_KIND = 6


@dataclass(frozen=True, eq=False)
class RenderedScene:
    """What is kept of a scene beside its picture.

    Attributes:
        seed: of the scene.
        objects: as in the scene; pixels are those of WIDTH by HEIGHT.
        sentences: what may be asked.
        labels: (LABELS, LABELS) uint8 the visible object's id at each place of the squashed
            picture, 0 for none.
        points: for each object a pixel (x, y) well inside what is seen of it.
    """

    seed: int
    objects: tuple[SceneObject, ...]
    sentences: tuple[Sentence, ...]
    labels: NDArray[np.uint8]
    points: tuple[tuple[float, float], ...]


def render_scene(seed: int, side: int) -> tuple[RgbImage, RenderedScene]:
    """Render a scene; return its picture squashed to (side, side, 3) uint8 and the rest."""
    scene = make_scene(seed, width=WIDTH, height=HEIGHT, depth_noise=0.0, sentences=False)
    scene = with_sentences(scene, np.random.default_rng((seed, 1)), _PER_KIND)
    squashed = Image.fromarray(scene.frame.image).resize((side, side), Image.Resampling.BILINEAR)
    labels = np.maximum(scene.labels, 0).astype(np.uint8)
    points = tuple(_inner_point(labels == item.id) for item in scene.objects)
    small = cv2.resize(labels, (LABELS, LABELS), interpolation=cv2.INTER_NEAREST)
    kept = RenderedScene(seed, scene.objects, scene.sentences, np.asarray(small, np.uint8), points)
    return np.asarray(squashed), kept


def _inner_point(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the pixel of a mask that is farthest from its border."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(column) - 0.5, float(row) - 0.5
