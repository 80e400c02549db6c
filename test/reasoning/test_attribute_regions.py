"""Things are found in pictures with and without depth."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from segzero_ros.reasoning.attributes.components_from_colour import components_from_colour
from segzero_ros.reasoning.attributes.regions import find_regions
from segzero_ros.reasoning.attributes.surface_fit import fit_surface
from segzero_ros.simulation import make_scene
from segzero_ros.types import Frame, Intrinsics

SEEDS = range(40_000, 40_010)
WIDTH, HEIGHT = 640, 480
CAMERA = Intrinsics(560.0, 560.0, 319.5, 239.5, WIDTH, HEIGHT)


def nothing():
    """Let `find_regions` go on."""


@pytest.fixture(scope='module')
def scenes():
    """Ten generated table-tops, with what `find_regions` makes of them."""
    made = [make_scene(seed, sentences=False) for seed in SEEDS]
    return [(scene, find_regions(scene.frame, nothing)) for scene in made]


def full_mask(region, shape):
    """Return a region's mask at the picture's size."""
    x1, y1, x2, y2 = (int(value) for value in region.box)
    full = np.zeros(shape, np.bool_)
    crop = cv2.resize(
        region.mask.astype(np.uint8), (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST
    )
    full[y1:y2, x1:x2] = crop[: shape[0] - y1, : shape[1] - x1] > 0
    return full


def clear_objects(scene):
    """Return the objects that nobody could overlook."""
    return [
        item
        for item in scene.objects
        if not item.clutter and item.visible > 0.7 and item.area > 600
    ]


def best_region(scene, view, item):
    """Return the region that fits an object best, and their IoU."""
    truth = scene.labels == item.id
    overlaps = []
    for region in view.regions:
        mask = full_mask(region, truth.shape)
        overlaps.append(((mask & truth).sum() / (mask | truth).sum(), region))
    return max(overlaps, key=lambda pair: pair[0])


def table(tilt_degrees, distance):
    """Return the depth of a bare table below a camera that looks down at it."""
    tilt = np.radians(tilt_degrees)
    normal = np.array([0.0, -np.cos(tilt), -np.sin(tilt)])
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    rays = np.stack(
        [(columns - CAMERA.cx) / CAMERA.fx, (rows - CAMERA.cy) / CAMERA.fy, np.ones_like(rows)]
    )
    along = np.einsum('i,ihw->hw', normal, rays)
    depth = np.where(along < -0.05, -distance / along, np.nan)
    return depth.astype(np.float32), normal


@pytest.mark.parametrize('tilt', [35, 60, 88])
def test_the_table_under_things_is_found_with_heights_above_it(tilt):
    depth, normal = table(tilt, 0.9)
    # A block of 6 cm: nearer along each ray by its height over the cosine.
    depth[200:260, 300:380] *= 1 - 0.06 / 0.9
    frame = Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), depth=depth, intrinsics=CAMERA)
    surface = fit_surface(frame)
    assert surface.normal @ normal == pytest.approx(1.0, abs=1e-3)
    assert surface.distance == pytest.approx(0.9, rel=0.01)
    assert np.median(surface.heights[105:125, 155:185]) == pytest.approx(0.06, abs=0.002)
    assert surface.above_surface[105:125, 155:185].all()
    assert surface.above_surface.mean() < 0.06


def test_without_depth_or_without_a_plane_there_is_no_table():
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rough = np.random.default_rng(0).uniform(0.5, 3.0, (HEIGHT, WIDTH)).astype(np.float32)
    unknown = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    for depth in (None, rough, unknown):
        assert fit_surface(Frame(picture, depth=depth, intrinsics=CAMERA)) is None


def test_places_on_the_table_are_where_pixels_see_them():
    depth, _ = table(50, 0.8)
    frame = Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), depth=depth, intrinsics=CAMERA)
    surface = fit_surface(frame)
    first, second = surface.plan()
    chosen = np.array([[150, 20], [200, 40], [120, 300]])
    plan = np.array([[first[r, c], second[r, c]] for r, c in chosen], np.float32)
    assert surface.to_pixels(plan) == pytest.approx(chosen[:, ::-1], abs=0.2)


@pytest.mark.slow
def test_things_on_generated_tables_are_found_whole_and_apart(scenes):
    overlaps = [best_region(*pair, item)[0] for pair in scenes for item in clear_objects(pair[0])]
    assert len(overlaps) > 40
    assert np.mean(overlaps) > 0.85
    assert np.mean(np.array(overlaps) > 0.6) > 0.95


@pytest.mark.slow
def test_no_more_things_are_found_than_there_are(scenes):
    for scene, view in scenes:
        assert view.on_surface
        assert len(view.regions) <= sum(item.area > 0 for item in scene.objects) + 1


@pytest.mark.slow
def test_shapes_and_colours_of_generated_things_are_known(scenes):
    kinds = {'pen': 'stick'}
    colours = {'gray': 'grey'}
    right_kinds, right_colours = [], []
    for scene, view in scenes:
        for item in clear_objects(scene):
            overlap, region = best_region(scene, view, item)
            if overlap > 0.6:
                right_kinds.append(region.shape.fit(kinds.get(item.kind, item.kind)) >= 0.5)
                right_colours.append(
                    region.colour.fit(colours.get(item.colour, item.colour)) >= 0.5
                )
    assert np.mean(right_kinds) > 0.92
    assert np.mean(right_colours) > 0.95


@pytest.mark.slow
def test_points_lie_inside_their_regions(scenes):
    for scene, view in scenes:
        for region in view.regions:
            x, y = region.point
            assert full_mask(region, scene.labels.shape)[int(y), int(x)]


@pytest.mark.slow
def test_looking_twice_gives_the_same_regions(scenes):
    scene, view = scenes[0]
    again = find_regions(replace(scene.frame), nothing)
    assert [region.box for region in again.regions] == [region.box for region in view.regions]


def test_without_depth_things_are_patches_that_differ_from_what_lines_the_picture():
    rng = np.random.default_rng(1)
    picture = np.full((240, 320, 3), (150, 120, 90), np.float64)
    picture += rng.normal(0, 6, picture.shape) + np.linspace(-25, 25, 320)[None, :, None]
    cv2.circle(picture, (80, 120), 30, (200, 30, 30), cv2.FILLED)
    cv2.rectangle(picture, (180, 80), (260, 150), (30, 60, 190), cv2.FILLED)
    frame = Frame(np.clip(picture, 0, 255).astype(np.uint8))
    view = find_regions(frame, nothing)
    assert not view.on_surface
    assert [region.colour.name for region in view.regions] == ['red', 'blue']
    assert view.regions[0].box == pytest.approx((50, 90, 111, 151), abs=4)
    assert view.regions[0].shape.fit('round') > 0.5 > view.regions[1].shape.fit('round')


def test_a_striped_cloth_is_no_thing():
    picture = np.full((240, 320, 3), 225, np.uint8)
    for row in range(0, 240, 30):
        picture[row : row + 15] = (120, 140, 175)
    cv2.circle(picture, (160, 120), 28, (190, 30, 40), cv2.FILLED)
    labels = components_from_colour(cv2.cvtColor(picture, cv2.COLOR_RGB2LAB))
    assert set(np.unique(labels)) == {0, 1}
    assert (labels > 0).sum() == pytest.approx(np.pi * 28**2, rel=0.15)


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1), (5, 700), (700, 5)])
@pytest.mark.parametrize('depth', [None, 1.0, np.nan, 0.0, np.inf])
def test_odd_pictures_do_not_fail(shape, depth):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    measured = None if depth is None else np.full(shape, depth, np.float32)
    for region in find_regions(Frame(picture, depth=measured), nothing).regions:
        assert 0 < region.area <= 1
