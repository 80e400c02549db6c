"""The depth camera is as noisy as measured ones are."""

from __future__ import annotations

import numpy as np
import pytest

from segzero_ros.simulation.sensors import look, measure_depth, photograph


@pytest.mark.parametrize(('metres', 'spread_mm'), [(0.5, 1.2), (1.0, 1.9), (2.0, 6.1)])
def test_noise_grows_with_distance(metres: float, spread_mm: float) -> None:
    """About three quarters of what was measured per pixel; neighbours share a part of it."""
    flat, facing = np.full((240, 320), metres), np.ones((240, 320))
    measured = measure_depth(np.random.default_rng(1), flat, facing, 1.0)
    spread = 1000 * np.nanstd(measured)
    assert 0.55 * spread_mm < spread < 1.1 * spread_mm
    assert np.nanmean(measured) == pytest.approx(metres, abs=0.0005)


def test_edges_get_holes_and_pixels_in_between() -> None:
    step = np.where(np.arange(320) < 160, 1.0, 2.0) * np.ones((240, 1))
    measured = measure_depth(np.random.default_rng(2), step, np.ones((240, 320)), 1.0)
    edge, flat = measured[:, 158:162], measured[:, 20:140]
    assert np.isnan(edge).mean() > 0.15
    assert np.isnan(flat).mean() < 0.02
    assert ((edge > 1.1) & (edge < 1.9)).mean() > 0.03
    assert not ((flat > 1.1) | (flat < 0.9)).any()


def test_slanted_and_far_surfaces_are_lost() -> None:
    rng = np.random.default_rng(3)
    slanted = measure_depth(rng, np.ones((60, 80)), np.full((60, 80), 0.1), 1.0)
    assert np.isnan(slanted).mean() > 0.4
    assert np.isnan(measure_depth(rng, np.full((60, 80), 9.0), np.ones((60, 80)), 1.0)).all()


def test_bright_light_keeps_its_colour_and_fresh_noise_differs() -> None:
    rng = np.random.default_rng(4)
    camera = look(rng)
    light = np.zeros((60, 80, 3), np.float32) + np.float32((0.6, 0.2, 0.05))
    one, other = photograph(rng, light, camera), photograph(rng, light, camera)
    assert one.dtype == np.uint8
    assert not np.array_equal(one, other)
    red, green, blue = one.reshape(-1, 3).mean(axis=0)
    assert red > green > blue
