"""The pictures agree with their truth, by measures that do not use the code that drew them."""

from __future__ import annotations

from collections import Counter
import colorsys
from itertools import pairwise

import cv2
import numpy as np
import pytest

from segzero_ros.simulation import make_motion, make_scene, Scene
from segzero_ros.types import Pose3D

SEEDS = tuple(range(12))
SMALL = {'width': 320, 'height': 240}


@pytest.fixture(scope='module')
def scenes() -> list[Scene]:
    return [make_scene(seed, **SMALL) for seed in SEEDS]


def rotation(pose: Pose3D) -> np.ndarray:
    x, y, z, w = pose.orientation
    angle = 2 * np.arctan2(np.linalg.norm([x, y, z]), w)
    axis = np.array([x, y, z]) / max(np.linalg.norm([x, y, z]), 1e-12)
    return cv2.Rodrigues(axis * angle)[0]


def points_of(scene: Scene, mask: np.ndarray) -> np.ndarray:
    k = scene.frame.intrinsics
    rows, columns = np.nonzero(mask)
    z = scene.depth[mask].astype(np.float64)
    return np.stack([(columns - k.cx) / k.fx * z, (rows - k.cy) / k.fy * z, z], axis=1)


def test_the_same_seed_gives_the_same_scene_bit_for_bit() -> None:
    one, other = make_scene(3, **SMALL), make_scene(3, **SMALL)
    assert np.array_equal(one.frame.image, other.frame.image)
    assert np.array_equal(one.frame.depth, other.frame.depth, equal_nan=True)
    assert np.array_equal(one.labels, other.labels)
    assert one.objects == other.objects
    assert one.sentences == other.sentences


@pytest.mark.slow
def test_another_seed_gives_another_scene() -> None:
    one, other = make_scene(3, **SMALL), make_scene(4, **SMALL)
    assert np.abs(one.frame.image.astype(int) - other.frame.image).mean() > 5
    assert one.objects != other.objects


def test_a_scene_has_the_size_that_was_asked_for() -> None:
    scene = make_scene(1, width=424, height=240)
    assert scene.frame.image.shape == (240, 424, 3)
    assert scene.frame.depth.shape == scene.labels.shape == scene.depth.shape == (240, 424)
    assert (scene.frame.intrinsics.width, scene.frame.intrinsics.height) == (424, 240)


@pytest.mark.slow
def test_visible_pixels_lie_in_the_box_of_their_object(scenes: list[Scene]) -> None:
    for scene in scenes:
        for index, item in enumerate(scene.objects):
            points = points_of(scene, scene.mask(index))
            local = (points - item.pose.position) @ rotation(item.pose)
            assert (np.abs(local) <= np.array(item.pose.size) / 2 + 1e-5).all(), item


@pytest.mark.slow
def test_a_visible_box_is_seen_to_its_edges(scenes: list[Scene]) -> None:
    """What is visible of an unhidden box reaches both ends of its three extents."""
    boxes = [
        (scene, index)
        for scene in scenes
        for index, item in enumerate(scene.objects)
        if item.kind == 'box' and item.visible == 1.0 and item.area > 600
    ]
    assert len(boxes) > 3
    for scene, index in boxes:
        pose = scene.objects[index].pose
        local = (points_of(scene, scene.mask(index)) - pose.position) @ rotation(pose)
        assert np.allclose(np.ptp(local, axis=0), pose.size, rtol=0.1, atol=0.006)


def test_table_pixels_lie_on_the_plane(scenes: list[Scene]) -> None:
    for scene in scenes:
        a, b, c, d = scene.plane
        distance = points_of(scene, scene.labels == 0) @ (a, b, c) + d
        assert np.abs(distance).max() < 1e-5
        assert d > 0, 'the normal points towards the camera'


def test_objects_stand_on_the_table(scenes: list[Scene]) -> None:
    for scene in scenes:
        normal, d = np.array(scene.plane[:3]), scene.plane[3]
        for item in scene.objects:
            assert np.allclose(rotation(item.pose)[:, 2], normal, atol=1e-6)
            above = normal @ item.pose.position + d
            assert above == pytest.approx(item.pose.size[2] / 2, abs=1e-6)


def test_boxes_areas_and_centres_are_those_of_the_masks(scenes: list[Scene]) -> None:
    for scene in scenes:
        for index, item in enumerate(scene.objects):
            mask = scene.mask(index)
            assert item.area == mask.sum()
            assert 0 <= item.visible <= 1
            if item.area:
                rows, columns = np.nonzero(mask)
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert item.box == box
                assert item.centre == pytest.approx((columns.mean(), rows.mean()))


def test_some_objects_hide_others_and_few_hide_most(scenes: list[Scene]) -> None:
    shares = [item.visible for scene in scenes for item in scene.objects if not item.clutter]
    assert sum(share < 0.97 for share in shares) >= 3
    assert np.mean([share > 0.45 for share in shares]) > 0.95


def test_colours_look_as_they_are_called(scenes: list[Scene]) -> None:
    """The median hue in the picture, noise and light and all, is within 20° of the name's hue."""
    hues = {'red': 0, 'orange': 24, 'yellow': 52, 'green': 128, 'turquoise': 179, 'blue': 220,
            'purple': 278, 'pink': 336}  # fmt: skip
    checked = 0
    for scene in scenes:
        for index, item in enumerate(scene.objects):
            if item.colour not in hues or item.area < 150 or item.accents:
                continue
            median = np.median(scene.frame.image[scene.mask(index)], axis=0) / 255
            hue = 360 * colorsys.rgb_to_hsv(*median)[0]
            apart = abs((hue - hues[item.colour] + 180) % 360 - 180)
            assert apart < 20, (scene.seed, item, hue)
            checked += 1
    assert checked > 15


def test_depth_without_noise_is_the_truth() -> None:
    scene = make_scene(5, **SMALL, depth_noise=0.0)
    near = scene.depth < 4.0
    assert np.array_equal(scene.frame.depth[near], scene.depth[near])


@pytest.mark.slow
def test_depth_noise_grows_with_its_strength_and_leaves_holes() -> None:
    errors, holes = [], []
    for strength in (0.5, 1.0, 2.0):
        scene = make_scene(5, **SMALL, depth_noise=strength)
        measured = scene.frame.depth
        holes.append(np.isnan(measured).mean())
        errors.append(np.nanmedian(np.abs(measured - scene.depth)[scene.depth < 2]))
    assert errors == sorted(errors)
    assert 0.0002 < errors[1] < 0.006
    assert all(0.0005 < share < 0.3 for share in holes)
    assert not (measured <= 0).any()


@pytest.mark.slow
def test_a_tidy_table_has_no_clutter() -> None:
    tidy = make_scene(8, **SMALL, clutter=0.0)
    full = make_scene(8, **SMALL, clutter=2.0)
    assert not any(item.clutter for item in tidy.objects)
    assert sum(item.clutter for item in full.objects) > 3


def test_scenes_are_varied(scenes: list[Scene]) -> None:
    objects = [item for scene in scenes for item in scene.objects if not item.clutter]
    assert len(Counter(item.kind for item in objects)) >= 9
    assert len(Counter(item.colour for item in objects)) >= 8
    assert {item.size for item in objects} == {'small', 'medium', 'large'}


@pytest.mark.slow
def test_a_film_keeps_ids_and_moves_smoothly() -> None:
    film = list(make_motion(2, 6, **SMALL, rate=10.0))
    first = film[0]
    assert [scene.frame.stamp_ns for scene in film] == [i * 100_000_000 for i in range(6)]
    assert first.sentences
    moved = 0.0
    for before, after in pairwise(film):
        for old, new in zip(before.objects, after.objects, strict=True):
            same = (old.id, old.kind, old.colour, old.pose.size)
            assert same == (new.id, new.kind, new.colour, new.pose.size)
            step = np.linalg.norm(np.subtract(old.pose.position, new.pose.position))
            assert step < 0.15
            moved = max(moved, step)
    assert moved > 0.01


def test_a_still_camera_keeps_the_table_where_it_is() -> None:
    one, other = make_motion(2, 2, **SMALL, sway=0.0, moving=0, depth_noise=0.0)
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.depth, other.depth)
    assert not np.array_equal(one.frame.image, other.frame.image), 'noise is fresh in each picture'
