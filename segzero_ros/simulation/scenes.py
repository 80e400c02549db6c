"""Seeded table-top scenes with complete ground truth: `make_scene` and `make_motion`.

Images are ray-traced, so colour, depth, masks and poses agree exactly; the targets of sentences
are computed from the ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.rotations import quaternion_from_matrix
from segzero_ros.simulation import lighting, sensors
from segzero_ros.simulation.catalogue import ACCENT, BODY, INSIDE, PAGES
from segzero_ros.simulation.layout import make_setting, Setting
from segzero_ros.simulation.solids import Array
from segzero_ros.simulation.textures import noise_at, skin_colours
from segzero_ros.simulation.things import Thing
from segzero_ros.simulation.tracing import TABLE, trace, View, WALL
from segzero_ros.types import Box, Frame, Mask, Pose3D

Rng = np.random.Generator


@dataclass(frozen=True)
class SceneObject:
    """The ground truth of one object in an image.

    Attributes:
        id: its value in Scene.labels, from 1; the same in every scene of one motion.
        kind: one of catalogue.CLASSES or CLUTTER.
        colour: the colour's plain name.
        shade: 'light', 'dark' or ''.
        size: 'small', 'medium' or 'large' for its class.
        accents: names of its other colours (a label, the inside).
        plain: fraction of its visible pixels in its body's colour, 0 to 1.
        clutter: whether no sentence is about it.
        round: whether it is symmetric about its upright axis.
        pose: its true box in the camera's optical frame; the box's z axis is the table's normal.
        range: from the camera to the centre of its box, metres.
        box: tight box of its visible pixels (x1, y1, x2, y2); all 0 when it is not visible.
        centre: mean of its visible pixels (x, y); NaN when it is not visible.
        area: number of its visible pixels.
        visible: its visible fraction, relative to its pixels without occlusion.
    """

    id: int
    kind: str
    colour: str
    shade: str
    size: str
    accents: tuple[str, ...]
    plain: float
    clutter: bool
    round: bool
    pose: Pose3D
    range: float
    box: Box
    centre: tuple[float, float]
    area: int
    visible: float


@dataclass(frozen=True)
class Sentence:
    """A query about a scene.

    Attributes:
        text: the sentence.
        kind: 'colour', 'shape', 'size', 'position', 'relation', 'ordinal', 'plural', 'depth',
            'none' or, from `uses`, 'use'.
        difficulty: 'easy' (one property), 'relation', 'composed' (several properties), 'none' or
            'knowledge'.
        targets: indices into Scene.objects, ascending; empty for kind 'none'.
    """

    text: str
    kind: str
    difficulty: str
    targets: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its ground truth.

    Attributes:
        seed: of the scene.
        frame: colour, measured depth and intrinsics.
        depth: (H, W) float32 the true depth, metres.
        labels: (H, W) int16: the visible object's id, or 0 and less for table, floor and wall.
        objects: including clutter; object i has id i + 1.
        plane: the table's plane (a, b, c, d) in the optical frame: a·x + b·y + c·z + d = 0, with a
            unit normal away from the table.
        sentences: the queries, grouped by kind.
    """

    seed: int
    frame: Frame
    depth: NDArray[np.float32]
    labels: NDArray[np.int16]
    objects: tuple[SceneObject, ...]
    plane: tuple[float, float, float, float]
    sentences: tuple[Sentence, ...] = ()

    def mask(self, index: int) -> Mask:
        """Return the (H, W) visible pixels of an object."""
        return np.asarray(self.labels == self.objects[index].id)


def make_scene(
    seed: int,
    *,
    width: int = 640,
    height: int = 480,
    depth_noise: float = 1.0,
    clutter: float = 0.5,
    sentences: bool = True,
) -> Scene:
    """Return the scene of a seed.

    Args:
        seed: the same seed and options give the same scene, bit for bit.
        width: of the image, pixels.
        height: of the image, pixels.
        depth_noise: 1 for a typical depth camera, 0 for the true depth without holes.
        clutter: 0 for a tidy table, 1 for about five pieces of clutter.
        sentences: whether to make sentences.
    """
    rng = np.random.default_rng(seed)
    setting = make_setting(rng, width, height, clutter)
    scene = render(setting, rng, seed=seed, depth_noise=depth_noise)
    if not sentences:
        return scene
    # Imported here because of a circular import.
    from segzero_ros.simulation.sentences import with_sentences

    return with_sentences(scene, rng)


def render(
    setting: Setting, rng: Rng, *, seed: int = 0, depth_noise: float = 1.0, stamp_ns: int = 0
) -> Scene:
    """Return the scene of a setting, without sentences."""
    camera = setting.camera
    view = trace(camera, setting.room, setting.things)
    colours, gloss = _surface(setting, view)
    light = lighting.illuminate(camera, view, setting.things, setting.light, colours, gloss)
    image = sensors.photograph(rng, light, setting.look)
    rays = view.points - camera.position
    across = np.einsum('ijk,ijk->ij', rays, view.normals)
    facing = -across / np.sqrt(np.einsum('ijk,ijk->ij', rays, rays))
    measured = sensors.measure_depth(rng, view.depth, facing, depth_noise)
    frame = Frame(image, stamp_ns, 'camera_optical', measured, camera.intrinsics)
    objects = tuple(
        _truth(setting, view, index, thing) for index, thing in enumerate(setting.things)
    )
    normal = camera.axes.T @ np.array([0.0, 0.0, 1.0])
    offset = -float(normal @ camera.to_camera(np.zeros((1, 3)))[0])
    plane = (float(normal[0]), float(normal[1]), float(normal[2]), offset)
    return Scene(seed, frame, view.depth.astype(np.float32), view.labels, objects, plane)


def _surface(setting: Setting, view: View) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the (H, W, 3) sRGB colours and the (H, W) gloss of the visible surfaces."""
    points = view.points.astype(np.float32)
    labels = view.labels
    # Floor and wall are one plain colour each, uneven and out of focus.
    blotches = noise_at(points[..., 0], points[..., 2] + points[..., 1], 2.5, (0.3, 0.7))
    colours = np.asarray(setting.wall, np.float32) * (0.88 + 0.2 * blotches)[..., None]
    colours[(labels < 0) & (labels != WALL)] *= 0.55
    on_table = labels == TABLE
    table = setting.ground.colour(points[..., 0], points[..., 1])
    colours = np.where(on_table[..., None], np.clip(table, 0.01, 1), colours)
    gloss = np.where(on_table, np.float32(setting.ground.gloss), np.float32(0))
    for number, thing in enumerate(setting.things, start=1):
        seen = labels == number
        if seen.any():
            colours[seen] = _painted(thing, points[seen], view.paint[seen])
            gloss[seen] = thing.gloss
    return colours.astype(np.float32), gloss.astype(np.float32)


def _painted(
    thing: Thing, points: NDArray[np.float32], paint: NDArray[np.uint8]
) -> NDArray[np.float32]:
    local = ((points - thing.position) @ thing.axes).astype(np.float32)
    colours = skin_colours(thing.paint.rgb, thing.skin, local, thing.solid.extents[2])
    # The bare metal of a lid, the wood of a pencil's tip; else a book's pages.
    pale = {'can': (0.62, 0.62, 0.63), 'pen': (0.80, 0.66, 0.48)}
    colours[paint == INSIDE] = thing.inside
    colours[paint == ACCENT] = thing.skin.accent
    colours[paint == PAGES] = pale.get(thing.solid.kind, (0.87, 0.84, 0.76))
    return colours


def _accents(thing: Thing) -> tuple[str, ...]:
    """Return the names of an object's other colours."""
    found = []
    shown = thing.skin.kind in ('label', 'stripes') or thing.solid.kind in ('bottle',)
    if shown:
        found.append('black' if sum(thing.skin.accent) < 1.5 else 'white')
    if thing.inside != thing.paint.rgb and thing.solid.kind in ('mug', 'bowl'):
        found.append('white')
    if thing.solid.kind == 'book':
        found.append('white')
    if thing.solid.kind == 'can':
        found.append('gray')
    if thing.solid.kind == 'pen':
        found.append('brown')
    return tuple(dict.fromkeys(found))


def _plain_share(thing: Thing, paint: NDArray[np.uint8]) -> float:
    """Return the fraction of an object's visible pixels in its body's colour, without labels."""
    like_body = (paint == BODY) | ((paint == INSIDE) & (thing.inside == thing.paint.rgb))
    return float(like_body.mean()) if len(paint) else 0.0


def _truth(setting: Setting, view: View, index: int, thing: Thing) -> SceneObject:
    seen = view.labels == index + 1
    area = int(seen.sum())
    box, centre = (0.0, 0.0, 0.0, 0.0), (math.nan, math.nan)
    if area:
        x, y, width, height = cv2.boundingRect(seen.astype(np.uint8))
        box = (float(x), float(y), float(x + width), float(y + height))
        rows, columns = np.nonzero(seen)
        centre = (float(columns.mean()), float(rows.mean()))
    pose = Pose3D(
        _triple(setting.camera.to_camera(thing.centre[None])[0]),
        quaternion_from_matrix(setting.camera.axes.T @ thing.axes),
        _triple(np.array(thing.solid.extents)),
    )
    return SceneObject(
        id=index + 1,
        kind=thing.solid.kind,
        colour=thing.paint.name,
        shade=thing.paint.shade,
        size=thing.size,
        accents=_accents(thing),
        plain=_plain_share(thing, view.paint[seen]),
        clutter=thing.clutter,
        round=thing.solid.round,
        pose=pose,
        range=float(np.linalg.norm(pose.position)),
        box=box,
        centre=centre,
        area=area,
        visible=area / max(view.amodal[index], 1),
    )


def _triple(values: Array) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
