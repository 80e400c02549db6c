"""Every picture stands on the page, whole and undistorted."""

from __future__ import annotations

import numpy as np

from segzero_ros.cli.contact_sheet import contact_sheet


def test_pictures_of_any_size_stand_side_by_side_without_touching() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
    sizes = [(100, 200), (300, 200), (50, 100), (100, 400), (10, 10)]
    pictures = [
        np.full((*size, 3), colour, np.uint8) for size, colour in zip(sizes, colours, strict=True)
    ]
    page = contact_sheet(pictures, columns=2, width=100, gap=8)
    assert page.shape[1] == 8 + 2 * 108
    for (height, width), colour in zip(sizes, colours, strict=True):
        ys, xs = np.nonzero((page == colour).all(axis=-1))
        assert (np.ptp(xs) + 1, np.ptp(ys) + 1) == (100, round(height * 100 / width))
        assert ys.size == 100 * round(height * 100 / width)
        assert min(xs.min(), ys.min()) >= 8
        assert xs.max() < page.shape[1] - 8
        assert ys.max() < page.shape[0] - 7


def test_a_page_of_nothing_is_empty_paper() -> None:
    assert np.unique(contact_sheet([], columns=1, width=20, gap=4)).tolist() == [250]
