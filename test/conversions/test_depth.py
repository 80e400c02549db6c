"""Every depth encoding becomes the same metres; the rest is refused with the reason."""

from __future__ import annotations

import math
import struct
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('sensor_msgs.msg')

from sensor_msgs.msg import CompressedImage, Image
from test_image import BGR, changed, compressed, cut, deflated, from_bag, GREY, image_of
from test_rvl import compress

from segzero_ros.conversions.depth import decode_depth
from segzero_ros.types import BadImage

METRES = np.array([[0.5, 1.25, 2.0, np.nan], [3.001, 7.5, np.nan, 0.25]], np.float32)


def depth_image(pixels: np.ndarray, encoding: str, padding: int = 0, **fields: Any) -> Image:
    row_bytes = np.ascontiguousarray(pixels).view(np.uint8)
    rows = np.pad(row_bytes, ((0, 0), (0, padding)), constant_values=255)
    return Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=rows.shape[1],
        data=rows.tobytes(),
        **fields,
    )


def in_millimetres() -> np.ndarray:
    return np.nan_to_num(METRES * 1000).round().astype(np.uint16)


def compressed_depth(
    pixels: np.ndarray, text: str, a: float = 0.0, b: float = 0.0
) -> CompressedImage:
    data = cv2.imencode('.png', pixels)[1].tobytes()
    return CompressedImage(format=text, data=struct.pack('<iff', 0, a, b) + data)


def compressed_rvl(
    pixels: np.ndarray, text: str, a: float = 0.0, b: float = 0.0
) -> CompressedImage:
    return CompressedImage(format=text, data=struct.pack('<iff', 0, a, b) + compress(pixels))


def quantised(a: float, b: float) -> np.ndarray:
    """Return METRES as compressedDepth writes metres: a / depth + b in 16 bits, 0 unknown."""
    return np.nan_to_num(a / METRES + b).round().astype(np.uint16)


# The transport's defaults: quantisation 100, largest depth 10 m.
QUANTISATION = (100.0 * 101.0, 1.0 - 100.0 * 101.0 / 10.0)
DEPTHS = {
    '16UC1': (depth_image(in_millimetres(), '16UC1'), 1e-6),
    'mono16': (depth_image(in_millimetres(), 'mono16'), 1e-6),
    '16UC1 with padding': (depth_image(in_millimetres(), '16UC1', 5), 1e-6),
    '16UC1 big-endian': (
        depth_image(in_millimetres().astype('>u2'), '16UC1', is_bigendian=1),
        1e-6,
    ),
    '32FC1': (depth_image(METRES, '32FC1'), 0),
    '32FC1 with padding': (depth_image(METRES, '32FC1', 3), 0),
    '32FC1 big-endian': (depth_image(METRES.astype('>f4'), '32FC1', is_bigendian=1), 0),
    'compressedDepth': (compressed_depth(in_millimetres(), '16UC1; compressedDepth png'), 1e-6),
    'compressedDepth without word': (
        compressed_depth(in_millimetres(), '16UC1; compressedDepth'),
        1e-6,
    ),
    'compressedDepth of metres': (
        compressed_depth(quantised(*QUANTISATION), '32FC1; compressedDepth png', *QUANTISATION),
        3e-3,
    ),
    'png': (compressed('.png', in_millimetres(), '16UC1; png compressed '), 1e-6),
    **{
        f'compressedDepth as {text}': (compressed_depth(in_millimetres(), text), 1e-6)
        for text in ('mono16; compressedDepth', 'mono16; compressedDepth png', '16UC1', 'png', '')
    },
    **{f'bare {text}': (compressed('.png', in_millimetres(), text), 1e-6) for text in ('png', '')},
    **{
        f'rvl as {text}': (compressed_rvl(in_millimetres(), text), 1e-6)
        for text in ('16UC1; compressedDepth rvl', 'mono16; compressedDepth rvl', 'rvl')
    },
    'rvl alone': (CompressedImage(format='16UC1; rvl', data=compress(in_millimetres())), 1e-6),
    'rvl of metres': (
        compressed_rvl(quantised(*QUANTISATION), '32FC1; compressedDepth rvl', *QUANTISATION),
        3e-3,
    ),
    'tiff of metres': (compressed('.tiff', METRES, '32FC1; tiff compressed '), 0),
    'tiff': (compressed('.tiff', in_millimetres(), '16UC1; tiff compressed '), 1e-6),
    'zstd': (deflated(depth_image(in_millimetres(), '16UC1', 5)), 1e-6),
    'zstd of metres': (deflated(depth_image(METRES, '32FC1')), 0),
}


@pytest.mark.parametrize('name', DEPTHS)
def test_every_depth_encoding_becomes_the_same_metres(name: str) -> None:
    message, tolerance = DEPTHS[name]
    for decoded in (decode_depth(message), decode_depth(from_bag(message))):
        assert decoded.dtype == np.float32
        np.testing.assert_allclose(decoded, METRES, rtol=tolerance, atol=0)


def test_what_is_no_distance_is_unknown() -> None:
    values = np.array([[math.nan, math.inf, -math.inf, 0.0, -0.0, -1.5, 1.5]], np.float32)
    decoded = decode_depth(depth_image(values, '32FC1'))
    assert np.isnan(decoded[0, :6]).all()
    assert decoded[0, 6] == 1.5


def test_a_depth_image_shares_no_memory_with_the_message() -> None:
    message = depth_image(METRES, '32FC1')
    before = message.data.tobytes()
    decode_depth(message)[:] = 9
    assert message.data.tobytes() == before


@pytest.mark.parametrize(
    ('message', 'sentence'),
    [
        (image_of('rgb8'), "'rgb8' is not a depth encoding: expected 16UC1"),
        (changed(image_of('mono16'), encoding='64FC1'), "'64FC1' is not a depth encoding"),
        (
            changed(depth_image(METRES, '32FC1'), data=METRES.tobytes()[:-1]),
            'truncated.* 32 bytes, but it has 31',
        ),
        (changed(depth_image(METRES, '32FC1'), step=15), 'step is 15'),
        (changed(depth_image(METRES, '32FC1'), width=0), 'empty'),
        (changed(depth_image(METRES, '32FC1'), width=10**6, height=10**6), 'at most'),
        (
            CompressedImage(format='16UC1; compressedDepth rvl', data=bytes(64)),
            'empty: 0x0 pixels',
        ),
        (CompressedImage(format='16UC1; compressedDepth rvl', data=bytes(15)), '3 bytes of RVL'),
        (CompressedImage(format='16UC1; compressedDepth rvl', data=bytes(9)), 'truncated: 9'),
        (cut(compressed_rvl(in_millimetres(), '16UC1; compressedDepth rvl'), 28), 'truncated'),
        (CompressedImage(format='16UC1; compressedDepth png', data=bytes(11)), 'truncated: 11'),
        (CompressedImage(format='16UC1; compressedDepth png', data=bytes(64)), 'neither'),
        (
            compressed('.jpg', GREY, '16UC1; jpeg compressed'),
            'uint8; depth is a PNG of one 16-bit',
        ),
        (compressed('.png', BGR, 'png'), r'\(48, 64, 3\) uint8'),
        (compressed('.png', in_millimetres(), '32FC1; png compressed '), 'has no quantisation'),
    ],
)
def test_what_is_no_depth_is_refused_by_name(message: Any, sentence: str) -> None:
    with pytest.raises(BadImage, match=sentence):
        decode_depth(message)
