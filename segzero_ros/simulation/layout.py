"""Random layout of a scene: objects, table, light and camera."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from segzero_ros.simulation import catalogue, colours
from segzero_ros.simulation.lighting import lamp, Light
from segzero_ros.simulation.sensors import Look, look
from segzero_ros.simulation.solids import Array
from segzero_ros.simulation.textures import Ground, GROUNDS, Skin, SKINS
from segzero_ros.simulation.things import Camera, Thing
from segzero_ros.simulation.tracing import Room
from segzero_ros.types import Intrinsics

Rng = np.random.Generator

# Minimum distance of objects from the image border, as a fraction of its size.
_BORDER = 0.025
_ATTEMPTS = 40
_TOGETHER = 0.5


@dataclass(frozen=True, eq=False)
class Setting:
    """A table with its objects, light, camera and the camera's look."""

    camera: Camera
    room: Room
    ground: Ground
    wall: colours.Rgb
    light: Light
    look: Look
    things: tuple[Thing, ...]


def make_setting(rng: Rng, width: int, height: int, clutter: float) -> Setting:
    """Return a random setting.

    Args:
        rng: random generator.
        width: of the image, pixels.
        height: of the image, pixels.
        clutter: 0 for a tidy table, 1 for about five pieces of clutter.
    """
    camera = _camera(rng, width, height)
    ground = GROUNDS[rng.choice(list(GROUNDS), p=(0.32, 0.14, 0.24, 0.18, 0.12))](rng)
    room = Room(
        half_width=float(rng.uniform(0.55, 1.2)),
        edge=float(rng.uniform(0.32, 0.7)),
        wall=float(rng.uniform(0.75, 1.6)),
        floor=-0.74,
    )
    things = _place(rng, camera, room, ground, _choose(rng, ground))
    scraps = [_scrap(rng, ground) for _ in range(rng.poisson(5 * clutter))] if clutter > 0 else []
    things += _place(rng, camera, room, ground, scraps, things)
    tone = rng.uniform(0.45, 0.85)
    r, g, b = (float(v) for v in np.clip(tone + rng.uniform(-0.06, 0.06, 3), 0, 1))
    return Setting(camera, room, ground, (r, g, b), lamp(rng), look(rng), tuple(things))


def _camera(rng: Rng, width: int, height: int) -> Camera:
    focal = width * rng.uniform(0.85, 1.02)
    centre = (np.array([width, height]) - 1) / 2 + rng.uniform(-0.01, 0.01, 2) * width
    intrinsics = Intrinsics(
        float(focal), float(focal), float(centre[0]), float(centre[1]), width, height
    )
    return Camera.looking_at(
        intrinsics,
        np.array([0.0, rng.uniform(-0.05, 0.03), 0.03]),
        distance=rng.uniform(0.72, 1.05),
        tilt=np.radians(rng.uniform(30, 62)),
        roll=np.radians(rng.uniform(-2.5, 2.5)),
    )


def _choose(rng: Rng, ground: Ground) -> list[Thing]:
    """Return objects without positions; few classes and colours, so that some share them."""
    names = [name for name in colours.NAMES if not _hidden_on(ground, name)]
    palette = rng.choice(names, size=min(len(names), int(rng.integers(3, 6))), replace=False)
    kinds = rng.choice(list(catalogue.CLASSES), size=int(rng.integers(3, 6)), replace=False)
    chosen: list[Thing] = []
    for _ in range(int(rng.integers(5, 11))):
        kind, name = str(rng.choice(kinds)), str(rng.choice(palette))
        if sum(thing.solid.kind == kind for thing in chosen) < 4:
            chosen.append(_thing(rng, kind, name, ground))
    return chosen


def _hidden_on(ground: Ground, name: str) -> bool:
    """Return whether a colour has too little contrast to the table."""
    for shade in colours.SHADES[name]:
        rgb = colours.mix(np.random.default_rng(0), name, shade).rgb
        if colours.difference(rgb, ground.mean) < 28:
            return True
        if any(colours.alike(rgb, dye) for dye in ground.dyes):
            return True
    return False


def _thing(rng: Rng, kind: str, name: str, ground: Ground) -> Thing:
    shade = str(rng.choice(colours.SHADES[name]))
    paint = colours.mix(rng, name, shade)
    size = str(rng.choice(('small', 'medium', 'large'), p=(0.25, 0.5, 0.25)))
    scale = {'small': 0.72, 'medium': 1.0, 'large': 1.38}[size] * rng.uniform(0.96, 1.04)
    solid = catalogue.CLASSES[kind](rng, scale)
    pale: colours.Rgb = (0.88, 0.87, 0.84)
    inside = pale if rng.random() < 0.3 and name != 'white' else paint.rgb
    gloss = float(rng.beta(1.3, 2.4)) * (0.35 if kind in ('book', 'box') else 1.0)
    yaw = float(rng.uniform(-np.pi, np.pi))
    if kind == 'mug':  # a handle that the camera can see
        yaw = float(rng.choice((-0.35, np.pi + 0.35)) + rng.uniform(-0.55, 0.55))
    return Thing(
        solid, paint, _skin(rng, kind, name), inside, gloss,
        np.zeros(3), yaw, size,
    )  # fmt: skip


def _skin(rng: Rng, kind: str, name: str) -> Skin:
    weights = {
        'can': (0.2, 0.1, 0.45, 0.15, 0.1), 'bottle': (0.3, 0.1, 0.45, 0.05, 0.1),
        'box': (0.4, 0.2, 0.2, 0.0, 0.2), 'mug': (0.55, 0.2, 0.0, 0.25, 0.0),
        'book': (0.7, 0.1, 0.0, 0.0, 0.2),
    }.get(kind, (0.6, 0.3, 0.0, 0.0, 0.1))  # fmt: skip
    accent: colours.Rgb = (0.15, 0.15, 0.16) if name in ('white', 'yellow') else (0.9, 0.89, 0.86)
    offset = (float(rng.random()), float(rng.random()))
    strength = float(rng.uniform(0.08, 0.34))
    return Skin(str(rng.choice(SKINS, p=weights)), accent, strength, offset)


def _scrap(rng: Rng, ground: Ground) -> Thing:
    kind = str(rng.choice(list(catalogue.CLUTTER), p=(0.15, 0.65, 0.2)))
    name = {'crumb': 'brown', 'napkin': 'white', 'cable': 'black'}[kind]
    thing_like = catalogue.CLUTTER[kind](rng, 1.0)
    paint = colours.mix(rng, name)
    skin = Skin('plain', paint.rgb, 0.15, (float(rng.random()), float(rng.random())))
    yaw = float(rng.uniform(-np.pi, np.pi))
    return Thing(thing_like, paint, skin, paint.rgb, 0.03, np.zeros(3), yaw, clutter=True)


def _place(
    rng: Rng,
    camera: Camera,
    room: Room,
    ground: Ground,
    things: list[Thing],
    before: list[Thing] | None = None,
) -> list[Thing]:
    """Return the objects that fit into the image, with their positions."""
    placed: list[Thing] = list(before or ())
    start = len(placed)
    boxes = [_picture_box(camera, thing) for thing in placed]
    for thing in things:
        for _ in range(_ATTEMPTS):
            moved = _somewhere(rng, camera, room, thing, boxes)
            if moved is None:
                continue
            box = _picture_box(camera, moved)
            if _inside(camera, box) and _free(moved, placed) and _seen(box, boxes, thing.clutter):
                placed.append(moved)
                boxes.append(box)
                break
    return placed[start:]


def _somewhere(
    rng: Rng, camera: Camera, room: Room, thing: Thing, boxes: list[Array]
) -> Thing | None:
    """Return the object at a random position on the table, often close to another one."""
    k = camera.intrinsics
    pixel = rng.uniform((0.04, 0.12), (0.96, 0.96)) * (k.width, k.height)
    if boxes and not thing.clutter and rng.random() < _TOGETHER:
        box = boxes[int(rng.integers(len(boxes)))]
        pixel = (box[:2] + box[2:]) / 2 + rng.normal(0.0, 0.11 * k.width, 2)
    ray = camera.rays(pixel[:1], pixel[1:])[0]
    if ray[2] > -0.15:
        return None
    point = camera.position + ray * (-camera.position[2] / ray[2])
    margin = thing.reach
    if abs(point[0]) > room.half_width - margin or point[1] > room.edge - margin:
        return None
    return replace(thing, position=np.array([point[0], point[1], 0.0]))


def _picture_box(camera: Camera, thing: Thing) -> Array:
    pixels = camera.project(thing.corners)
    return np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])


def _inside(camera: Camera, box: Array) -> bool:
    size = np.array([camera.intrinsics.width, camera.intrinsics.height])
    return bool((box[:2] > _BORDER * size).all() and (box[2:] < (1 - _BORDER) * size).all())


def _free(thing: Thing, others: list[Thing]) -> bool:
    """Return whether an object's footprint is clear of all others."""
    return all(apart(thing, other) for other in others)


def apart(one: Thing, other: Thing) -> bool:
    """Return whether two objects are clear of each other."""
    # Separating axes of the footprints' rectangles, with a gap.
    gap = 0.006
    offset = (other.centre - one.centre)[:2]
    for axis in np.concatenate([one.axes[:2, :2].T, other.axes[:2, :2].T]):
        reach = sum(
            abs(float(axis @ thing.axes[:2, i])) * thing.solid.extents[i] / 2
            for thing in (one, other)
            for i in (0, 1)
        )
        if abs(float(axis @ offset)) > reach + gap:
            return True
    return False


def _seen(box: Array, others: list[Array], clutter: bool) -> bool:
    """Return whether a box in the image does not overlap too much with others."""
    allowed = 0.1 if clutter else 0.5
    area = (box[2] - box[0]) * (box[3] - box[1])
    for other in others:
        size = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        if (size <= 0).any():
            continue
        smaller = min(area, (other[2] - other[0]) * (other[3] - other[1]))
        if size.prod() > allowed * smaller:
            return False
    return True
