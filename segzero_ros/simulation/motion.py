"""Image sequences of a scene: objects slide, the camera sways, ids are constant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
import math

import numpy as np

from segzero_ros.simulation.layout import apart, make_setting, Setting
from segzero_ros.simulation.scenes import render, Scene
from segzero_ros.simulation.sentences import with_sentences
from segzero_ros.simulation.solids import Array
from segzero_ros.simulation.things import Camera, Thing

Rng = np.random.Generator

# Random motions that are tried until enough of them collide with nothing.
_PLANS = 60


@dataclass(frozen=True, eq=False)
class _Slide:
    """The motion of one object by `shift` and `turn`, with smooth start and end."""

    index: int
    shift: Array
    turn: float

    def at(self, thing: Thing, share: float) -> Thing:
        eased = share * share * (3 - 2 * share)
        return replace(
            thing,
            position=thing.position + eased * self.shift,
            yaw=thing.yaw + eased * self.turn,
        )


def make_motion(
    seed: int,
    n_frames: int,
    *,
    width: int = 640,
    height: int = 480,
    depth_noise: float = 1.0,
    clutter: float = 0.5,
    moving: int = 2,
    sway: float = 0.06,
    rate: float = 30.0,
) -> Iterator[Scene]:
    """Yield the scenes of a sequence; the first one has sentences.

    Objects keep their index in Scene.objects; an invisible one has area 0.

    Args:
        seed: the same seed and options give the same sequence.
        n_frames: number of scenes.
        width: of the image, pixels.
        height: of the image, pixels.
        depth_noise: 1 for a typical depth camera, 0 for the true depth without holes.
        clutter: 0 for a tidy table, 1 for about five pieces of clutter.
        moving: maximum number of sliding objects.
        sway: amplitude of the camera's motion, metres; 0 for a fixed camera.
        rate: scenes per second, for the stamps.
    """
    rng = np.random.default_rng(seed)
    setting = make_setting(rng, width, height, clutter)
    slides = _plan(rng, setting, moving)
    phase = rng.uniform(0, 2 * math.pi, 2)
    for number in range(n_frames):
        share = number / max(n_frames - 1, 1)
        now = replace(
            setting,
            camera=_swayed(setting.camera, sway, share, phase),
            things=_slid(setting.things, slides, share),
        )
        stamp = round(number * 1e9 / rate)
        scene = render(now, rng, seed=seed, depth_noise=depth_noise, stamp_ns=stamp)
        yield with_sentences(scene, rng) if number == 0 else scene


def _slid(
    things: tuple[Thing, ...], slides: tuple[_Slide, ...], share: float
) -> tuple[Thing, ...]:
    moved = list(things)
    for slide in slides:
        moved[slide.index] = slide.at(things[slide.index], share)
    return tuple(moved)


def _plan(rng: Rng, setting: Setting, moving: int) -> tuple[_Slide, ...]:
    """Return collision-free motions on the table."""
    slides: tuple[_Slide, ...] = ()
    movable = [i for i, thing in enumerate(setting.things) if not thing.clutter]
    for _ in range(_PLANS):
        if len(slides) == moving or not movable:
            break
        index = int(rng.choice(movable))
        heading, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.08, 0.3)
        shift = length * np.array([math.cos(heading), math.sin(heading), 0.0])
        slide = _Slide(index, shift, float(rng.uniform(-1.2, 1.2)))
        if index not in [other.index for other in slides] and _clear(setting, (*slides, slide)):
            slides = (*slides, slide)
    return slides


def _clear(setting: Setting, slides: tuple[_Slide, ...]) -> bool:
    room = setting.room
    for share in np.linspace(0, 1, 13):
        things = _slid(setting.things, slides, float(share))
        for slide in slides:
            thing = things[slide.index]
            x, y = thing.centre[:2]
            if abs(x) > room.half_width - thing.reach or y > room.edge - thing.reach:
                return False
            others = (other for other in things if other is not thing)
            if not all(apart(thing, other) for other in others):
                return False
    return True


def _swayed(camera: Camera, sway: float, share: float, phase: Array) -> Camera:
    """Return the moving camera, which points to about the same position."""
    sideways = sway * (math.sin(2 * math.pi * share + phase[0]) - math.sin(phase[0]))
    lift = 0.5 * sway * (math.sin(2 * math.pi * share + phase[1]) - math.sin(phase[1]))
    right, down, forward = camera.axes.T
    distance = camera.position[2] / -forward[2]
    target = camera.position + distance * forward
    position = camera.position + sideways * right - lift * down
    new_forward = (target - position) / np.linalg.norm(target - position)
    new_right = right - (right @ new_forward) * new_forward
    new_right /= np.linalg.norm(new_right)
    new_down = np.cross(new_forward, new_right)
    axes = np.stack([new_right, new_down, new_forward], axis=1)
    return Camera(camera.intrinsics, position, axes)
