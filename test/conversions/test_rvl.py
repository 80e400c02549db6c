"""RVL depth is read as its definition says, and never beyond its end."""

from __future__ import annotations

import struct
import time

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
import pytest

from segzero_ros.conversions.rvl import decompress
from segzero_ros.simulation import make_scene
from segzero_ros.types import BadImage

LIMIT = 64_000_000


def compress(image: np.ndarray) -> bytes:
    """Write an image as RVL defines it, number by number and nibble by nibble."""
    nibbles: list[int] = []

    def write(number: int) -> None:
        while True:
            number, low = number >> 3, number & 7
            nibbles.append(low | (8 if number else 0))
            if not number:
                return

    pixels = [int(value) for value in image.reshape(-1)]
    at = previous = 0
    while at < len(pixels):
        zeros = 0
        while at + zeros < len(pixels) and pixels[at + zeros] == 0:
            zeros += 1
        at += zeros
        others = 0
        while at + others < len(pixels) and pixels[at + others] != 0:
            others += 1
        write(zeros)
        write(others)
        for value in pixels[at : at + others]:
            difference = value - previous
            write(2 * difference if difference >= 0 else -2 * difference - 1)
            previous = value
        at += others
    nibbles += [0] * (-len(nibbles) % 8)
    words = bytearray()
    for first in range(0, len(nibbles), 8):
        word = 0
        for nibble in nibbles[first : first + 8]:
            word = word << 4 | nibble
        words += struct.pack('<I', word)
    return struct.pack('<II', image.shape[1], image.shape[0]) + bytes(words)


def depth_image(seed: int, width: int = 640, height: int = 480) -> np.ndarray:
    """Return (H, W) uint16 millimetres with noise and holes, as of a depth camera."""
    depth = make_scene(seed, width=width, height=height, sentences=False).frame.depth
    noise = np.random.default_rng(seed)
    millimetres = np.nan_to_num(depth * 1000) + noise.normal(0, 2, depth.shape)
    millimetres[noise.random(depth.shape) < 0.03] = 0
    return millimetres.clip(0, 65535).astype(np.uint16)


def test_the_example_of_the_definition() -> None:
    """Two zeros, then 5 and 3: counts 2 and 2, differences +5 as 10 and -2 as 3."""
    # 2 | 2 | 10 = 0b1_010: nibbles 1010, 0001 | 3
    data = struct.pack('<IIBBBB', 4, 1, 0x00, 0x30, 0xA1, 0x22)
    assert compress(np.array([[0, 0, 5, 3]], np.uint16)) == data
    assert decompress(data, LIMIT).tolist() == [[0, 0, 5, 3]]


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((3, 5), np.uint16),
        np.full((3, 5), 65535, np.uint16),
        np.array([[7]], np.uint16),
        np.array([[0]], np.uint16),
        np.array([[65535, 1, 65535, 0, 1]], np.uint16),
        np.tile(np.array([0, 40_000], np.uint16), (8, 8)),
        np.arange(65536, dtype=np.uint16).reshape(256, 256),
        depth_image(3, 160, 120),
    ],
)
def test_images_come_back_as_they_were(image: np.ndarray) -> None:
    read = decompress(compress(image), LIMIT)
    assert read.dtype == np.uint16
    assert np.array_equal(read, image)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    arrays(
        np.uint16,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.sampled_from((0, 0, 0, 1, 2, 799, 800, 801, 65535)) | st.integers(0, 65535),
    )
)
def test_any_image_comes_back_as_it_was(image: np.ndarray) -> None:
    assert np.array_equal(decompress(compress(image), LIMIT), image)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(0, 12) | st.integers(0, 2**32 - 1),
    height=st.integers(0, 12) | st.integers(0, 2**32 - 1),
    body=st.binary(max_size=80),
)
def test_any_bytes_are_read_or_refused(width: int, height: int, body: bytes) -> None:
    try:
        image = decompress(struct.pack('<II', width, height) + body, 10_000)
    except BadImage as refusal:
        assert str(refusal)
    else:
        assert image.shape == (height, width)


def test_what_is_cut_short_is_refused_at_any_place() -> None:
    data = compress(depth_image(3, 40, 30))
    for end in range(0, len(data) - 4, 3):
        with pytest.raises(BadImage, match=r'truncated'):
            decompress(data[:end], LIMIT)


def test_runs_beyond_the_image_are_refused() -> None:
    data = compress(np.full((2, 9), 5, np.uint16))
    with pytest.raises(BadImage, match='has more than 16 pixels'):
        decompress(struct.pack('<II', 8, 2) + data[8:], LIMIT)


def test_the_size_is_checked_before_memory_is_taken() -> None:
    with pytest.raises(BadImage, match='4000000000x4000000000 pixels; at most'):
        decompress(struct.pack('<II', 4_000_000_000, 4_000_000_000) + bytes(8), LIMIT)
    with pytest.raises(BadImage, match='empty'):
        decompress(struct.pack('<II', 0, 5) + bytes(8), LIMIT)


@pytest.mark.slow
def test_a_vga_image_takes_milliseconds() -> None:
    """It takes 15 ms or so; one pixel at a time would take half a second."""
    data = compress(depth_image(4))
    spent = []
    for _ in range(5):
        started = time.process_time()
        decompress(data, LIMIT)
        spent.append(time.process_time() - started)
    assert min(spent) < 0.1
