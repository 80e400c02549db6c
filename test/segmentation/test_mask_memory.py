"""The memory that masks take is bounded by pixels, not by the objects times the image."""

import math
import subprocess
import sys

import numpy as np
import pytest

from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import Roi

# Of a process of its own, for peak memory never falls: how much more bytes for each pixel of the
# image it took at most, while a segmenter made masks of many objects.
PEAK = """
import resource
import sys

import numpy as np

from segzero_ros.loading import load_segmenter, SegmenterOptions
from segzero_ros.types import Frame, GroundedObject, Grounding

backend, model, side, count, box = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
segmenter = load_segmenter(SegmenterOptions(backend, model, device='cpu'))
random = np.random.default_rng(0)
image = np.kron(
    random.integers(0, 256, (side // 50, side // 50, 3)), np.ones((50, 50, 1), np.uint8)
).astype(np.uint8)
corners = random.integers(0, side - box + 1, (count, 2)).tolist()
objects = tuple(
    GroundedObject((x, y, x + box, y + box), ((x + box / 2, y + box / 2),)) for x, y in corners
)
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
segmenter.segment(segmenter.encode(Frame(image[:64, :64].copy())), Grounding('', ()))
before = peak()
made = segmenter.segment(segmenter.encode(Frame(image)), Grounding('', objects))
assert len(made) == count
print((peak() - before) / side**2)
"""


def peak_bytes_per_pixel(backend: str, model: str, side: int, count: int, box: int) -> float:
    command = [sys.executable, '-c', PEAK, backend, model, *map(str, (side, count, box))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_grabcuts_masks_take_what_their_boxes_do():
    # 80 masks of the image's size alone would be 80 bytes for each of its pixels.
    assert peak_bytes_per_pixel('grabcut', '', 2000, 80, 100) < 25


def test_sam_2_enlarges_few_masks_at_a_time(tiny_sam2):
    # Whatever their boxes, weights drawn at random make masks of half the image. Enlarged in
    # float32, fifteen of them alone would be 60 bytes for each of its pixels.
    assert peak_bytes_per_pixel('sam2', str(tiny_sam2), 2400, 30, 100) < 45


@pytest.mark.parametrize('most', [0, 2**20], ids=['packed', 'plain'])
@pytest.mark.parametrize('shape', [(1, 1), (7, 5), (40, 61), (3, 200)])
def test_a_mask_comes_back_as_it_was(monkeypatch, most, shape):
    monkeypatch.setattr('segzero_ros.segmented_mask.MAX_UNCOMPRESSED_PIXELS', most)
    random = np.random.default_rng(sum(shape))
    for share in (0.0, 0.03, 0.5, 1.0):
        mask = random.random(shape) < share
        made = SegmentedMask(mask, 0.5)
        assert np.array_equal(made.mask, mask)
        assert (made.mask.dtype, made.roi, made.size) == (np.bool_, Roi.around(mask), shape)
        assert np.array_equal(made.cropped, mask[made.roi.slices])
        unpacked, score = made
        assert np.array_equal(unpacked, mask) and score == 0.5


def test_a_window_is_placed_in_its_image():
    window = np.zeros((4, 5), np.bool_)
    window[1:3, 2:5] = True
    made = SegmentedMask.from_window(window, 10, 20, (30, 40), math.nan)
    assert made.roi == Roi(12, 21, 3, 2)
    expected = np.zeros((30, 40), np.bool_)
    expected[21:23, 12:15] = True
    assert np.array_equal(made.mask, expected)
    empty = SegmentedMask.from_window(np.zeros((4, 5), np.bool_), 10, 20, (30, 40), math.nan)
    assert (empty.roi, empty.mask.any(), empty.mask.shape) == (Roi(0, 0, 0, 0), False, (30, 40))
