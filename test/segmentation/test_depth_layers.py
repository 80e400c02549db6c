"""Depth says what surely is an object, and leaves to colour what it cannot know."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from segzero_ros.segmentation.depth_layers import (
    BACKGROUND,
    depth_layers,
    OBJECT,
    PROBABLY_OBJECT,
)
from segzero_ros.segmentation.grabcut_segmenter import GrabCutSegmenter
from segzero_ros.simulation import make_scene
from segzero_ros.types import Frame, GroundedObject, Grounding

ROWS, COLUMNS = 80, 100
INNER = (slice(20, 60), slice(25, 75))


def table():
    """Return the depth of a table that comes nearer towards the bottom of the picture."""
    rows = np.linspace(1.0, 1.25, ROWS, dtype=np.float32)[:, None]
    return np.repeat(1.0 / rows, COLUMNS, axis=1)


def test_what_is_nearer_than_its_surroundings_is_the_object():
    depth = table()
    depth[25:55, 35:65] -= 0.08
    layers = depth_layers(depth, INNER, [(50, 40)])
    assert (layers[28:52, 38:62] == OBJECT).all()
    assert (layers[20, 25:70] == BACKGROUND).all()
    assert not np.isin(layers[30:50, 25:30], (OBJECT, PROBABLY_OBJECT)).any()


def test_a_neighbour_behind_a_jump_in_depth_is_not_the_object():
    depth = table()
    depth[25:55, 30:50] -= 0.10
    depth[25:55, 50:70] -= 0.04
    layers = depth_layers(depth, INNER, [(40, 40)])
    assert (layers[30:50, 35:45] == OBJECT).all()
    assert not np.isin(layers[30:50, 53:68], (OBJECT, PROBABLY_OBJECT)).any()


def test_holes_are_left_to_colour():
    depth = table()
    depth[25:55, 35:65] -= 0.08
    depth[30:40, 40:50] = np.nan
    layers = depth_layers(depth, INNER, [(60, 50)])
    assert (layers[33:37, 43:47] == 0).all()


@pytest.mark.parametrize(
    'depth',
    [table(), np.full((ROWS, COLUMNS), np.nan, np.float32), np.zeros((ROWS, COLUMNS), np.float32)],
    ids=['a bare table', 'holes only', 'no distance'],
)
def test_where_nothing_stands_out_depth_says_nothing(depth):
    assert depth_layers(depth, INNER, [(50, 40)]) is None


def test_without_points_depth_says_nothing():
    depth = table()
    depth[25:55, 35:65] -= 0.08
    assert depth_layers(depth, INNER, []) is None


def test_a_box_across_the_whole_picture_has_no_surroundings():
    assert depth_layers(table(), (slice(0, ROWS), slice(0, COLUMNS)), [(50, 40)]) is None


def test_an_object_in_the_tables_own_colour_is_cut_out_by_depth():
    image = np.full((160, 200, 3), 128, np.uint8)
    depth = cv2.resize(table(), (200, 160))
    depth[50:110, 70:130] -= 0.08
    grounding = Grounding('', (GroundedObject((60.0, 40.0, 140.0, 120.0), ((100.0, 80.0),)),))
    segmenter = GrabCutSegmenter()
    (made,) = segmenter.segment(segmenter.encode(Frame(image, depth=depth)), grounding)
    truth = np.zeros(image.shape[:2], np.bool_)
    truth[50:110, 70:130] = True
    assert (made.mask & truth).sum() / (made.mask | truth).sum() > 0.85


@pytest.mark.slow
def test_depth_makes_masks_of_generated_objects_better():
    segmenter = GrabCutSegmenter()
    with_depth, without = [], []
    for seed in range(42_000, 42_006):
        scene = make_scene(seed, sentences=False)
        for frame, overlaps in (
            (scene.frame, with_depth),
            (replace(scene.frame, depth=None), without),
        ):
            encoding = segmenter.encode(frame)
            for item in scene.objects:
                if item.clutter or item.visible < 0.7 or item.area < 600:
                    continue
                truth = scene.labels == item.id
                inside = cv2.distanceTransform(truth.astype(np.uint8), cv2.DIST_L2, 3)
                row, column = np.unravel_index(int(inside.argmax()), inside.shape)
                found = GroundedObject(item.box, ((float(column), float(row)),))
                (made,) = segmenter.segment(encoding, Grounding('', (found,)))
                overlaps.append((made.mask & truth).sum() / (made.mask | truth).sum())
    assert np.mean(with_depth) > 0.95
    assert np.mean(with_depth) > np.mean(without)
