"""Every encoding that a camera sends becomes the same RGB picture; the rest is refused by name."""

from __future__ import annotations

from array import array
from collections.abc import Callable
import struct
from types import SimpleNamespace
from typing import Any, NamedTuple
import zlib

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

pytest.importorskip('sensor_msgs.msg')

from rosbags.image import message_to_cvimage
from rosbags.typesys import get_typestore, Stores
from sensor_msgs.msg import CompressedImage, Image

from segzero_ros.conversions.depth import decode_depth
from segzero_ros.conversions.image import decode_image
from segzero_ros.types import BadImage

HEIGHT, WIDTH = 48, 64


def reference_picture() -> np.ndarray:
    """Return (H, W, 3) uint8 RGB: smooth, so that mosaics and shared chroma lose little, and
    different under every flip and every exchange of channels."""
    row, column = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    red = 40 + 170 * column / WIDTH
    green = 60 + 130 * row / HEIGHT
    blue = 120 + 70 * np.sin(2 * np.pi * (row / HEIGHT + column / WIDTH / 3))
    return np.stack([red, green, blue], axis=2).round().astype(np.uint8)


PICTURE = reference_picture()
GREY = cv2.cvtColor(PICTURE, cv2.COLOR_RGB2GRAY)
AS_GREY = np.repeat(GREY[..., None], 3, axis=2)
ALPHA = np.linspace(0, 255, PICTURE[..., 0].size).astype(np.uint8).reshape(HEIGHT, WIDTH, 1)
RGBA = np.concatenate((PICTURE, ALPHA), axis=2)
BGRA = np.concatenate((PICTURE[..., ::-1], ALPHA), axis=2)


def to_16_bits(pixels: np.ndarray) -> np.ndarray:
    """Fill the lower byte with something else than the upper one."""
    return pixels.astype(np.uint16) << 8 | 0x5A


def mosaic(pattern: str) -> np.ndarray:
    """Return (H, W) uint8 as behind a colour filter whose first two rows are the pattern's."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, colour in enumerate(pattern):
        rows, columns = slice(place // 2, None, 2), slice(place % 2, None, 2)
        pixels[rows, columns] = PICTURE[rows, columns, 'rgb'.index(colour)]
    return pixels


def yuv_planes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Y, U, V at full size, (H, W) uint8, by the formulas of BT.601."""
    red, green, blue = (PICTURE[..., channel].astype(float) / 255 for channel in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = 16 + 219 * luma, 128 + 112 * (blue - luma) / 0.886, 128 + 112 * (red - luma) / 0.701
    y, u, v = (np.clip(plane.round(), 0, 255).astype(np.uint8) for plane in planes)
    return y, u, v


Y, U, V = yuv_planes()


def packed_4_2_2(order: str) -> np.ndarray:
    """Return (H, 2W) uint8; the order of four bytes in letters, such as uyvy."""
    pixels = np.zeros((HEIGHT, WIDTH // 2, 4), np.uint8)
    luma = iter((Y[:, 0::2], Y[:, 1::2]))
    for place, letter in enumerate(order):
        pixels[..., place] = (
            {'u': U[:, ::2], 'v': V[:, ::2]}[letter] if letter != 'y' else next(luma)
        )
    return pixels.reshape(HEIGHT, 2 * WIDTH)


def halved(plane: np.ndarray) -> np.ndarray:
    """Return the means of 2 by 2 pixels."""
    means = plane.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean(axis=(1, 3))
    return means.round().astype(np.uint8)


def interleaved(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (rows, 2 · columns): first, second, first, …"""
    return np.stack([first, second], axis=2).reshape(len(first), -1)


class Sent(NamedTuple):
    """What a camera sends: rows of one length as (height, bytes a row), and what comes out."""

    rows: list[np.ndarray]
    picture: np.ndarray
    tolerance: int


def packed(pixels: np.ndarray, picture: np.ndarray = PICTURE, tolerance: int = 0) -> Sent:
    return Sent([pixels.reshape(HEIGHT, -1)], picture, tolerance)


SENT = {
    'rgb8': packed(PICTURE),
    'bgr8': packed(PICTURE[..., ::-1]),
    'rgba8': packed(RGBA),
    'bgra8': packed(BGRA),
    'mono8': packed(GREY, AS_GREY),
    '8UC1': packed(GREY, AS_GREY),
    '8UC3': packed(PICTURE[..., ::-1]),
    '8UC4': packed(BGRA),
    'rgb16': packed(to_16_bits(PICTURE)),
    'bgr16': packed(to_16_bits(PICTURE[..., ::-1])),
    'rgba16': packed(to_16_bits(RGBA)),
    'bgra16': packed(to_16_bits(BGRA)),
    'mono16': packed(to_16_bits(GREY), AS_GREY),
    '16UC1': packed(to_16_bits(GREY), AS_GREY),
    '16UC3': packed(to_16_bits(PICTURE[..., ::-1])),
    '16UC4': packed(to_16_bits(BGRA)),
    **{
        f'bayer_{pattern}8': packed(mosaic(pattern), tolerance=9)
        for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')
    },
    **{
        f'bayer_{pattern}16': packed(to_16_bits(mosaic(pattern)), tolerance=9)
        for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')
    },
    'uyvy': packed(packed_4_2_2('uyvy'), tolerance=6),
    'yuv422': packed(packed_4_2_2('uyvy'), tolerance=6),
    'yuyv': packed(packed_4_2_2('yuyv'), tolerance=6),
    'yuv422_yuy2': packed(packed_4_2_2('yuyv'), tolerance=6),
    'nv12': Sent([Y, interleaved(halved(U), halved(V))], PICTURE, 9),
    'nv21': Sent([Y, interleaved(halved(V), halved(U))], PICTURE, 9),
    'nv24': Sent([Y, interleaved(U, V).reshape(2 * HEIGHT, WIDTH)], PICTURE, 3),
}


def image_of(encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    """Return the reference picture as a message of rclpy, each row followed by padding bytes."""
    rows = np.concatenate(SENT[encoding].rows, axis=0)
    if big_endian:
        rows = rows.astype(rows.dtype.newbyteorder('>'))
    row_bytes = np.ascontiguousarray(rows).view(np.uint8)
    step = row_bytes.shape[1] + padding
    if encoding == 'nv24':
        # A row of chroma is two rows of luma long, and so is its padding.
        chroma = row_bytes[HEIGHT:].reshape(HEIGHT, -1)
        chroma = np.pad(chroma, ((0, 0), (0, 2 * padding)), constant_values=255)
        luma = np.pad(row_bytes[:HEIGHT], ((0, 0), (0, padding)), constant_values=255)
        data = luma.tobytes() + chroma.tobytes()
    else:
        data = np.pad(row_bytes, ((0, 0), (0, padding)), constant_values=255).tobytes()
    return Image(
        height=HEIGHT,
        width=WIDTH,
        encoding=encoding,
        is_bigendian=big_endian,
        step=step,
        data=array('B', data),
    )


def worst_difference(first: np.ndarray, second: np.ndarray) -> int:
    assert first.shape == second.shape
    assert first.dtype == second.dtype == np.uint8
    return int(np.abs(first.astype(int) - second.astype(int)).max())


def inner(picture: np.ndarray) -> np.ndarray:
    """Leave out the border, where a demosaicer has no neighbours to ask."""
    return picture[2:-2, 2:-2]


@pytest.mark.parametrize('padding', [0, 13])
@pytest.mark.parametrize('encoding', SENT)
def test_every_encoding_becomes_the_same_picture(encoding: str, padding: int) -> None:
    decoded = decode_image(image_of(encoding, padding))
    _, picture, tolerance = SENT[encoding]
    assert decoded.shape == picture.shape
    assert worst_difference(inner(decoded), inner(picture)) <= tolerance


@pytest.mark.parametrize('padding', [0, 14])
@pytest.mark.parametrize('encoding', [name for name in SENT if '16' in name])
def test_big_endian_channels_become_the_same_picture(encoding: str, padding: int) -> None:
    decoded = decode_image(image_of(encoding, padding, big_endian=True))
    assert np.array_equal(decoded, decode_image(image_of(encoding)))


@pytest.mark.parametrize('encoding', SENT)
def test_a_message_of_a_bag_reader_becomes_the_same_picture(encoding: str) -> None:
    message = image_of(encoding, padding=4)
    assert np.array_equal(decode_image(from_bag(message)), decode_image(message))


@pytest.mark.parametrize(
    'encoding', [name for name in SENT if name[:2] not in ('nv', '8U', '16') and '16' not in name]
)
def test_an_independent_codec_sees_the_same_picture(encoding: str) -> None:
    message = image_of(encoding)
    theirs = message_to_cvimage(from_bag(message), 'rgb8')
    assert worst_difference(decode_image(message), theirs) == 0


def from_bag(message: Any) -> Any:
    """Return the message as the bag reader's own class, by the wire."""
    from rclpy.serialization import serialize_message

    name = f'sensor_msgs/msg/{type(message).__name__}'
    return get_typestore(Stores.ROS2_JAZZY).deserialize_cdr(serialize_message(message), name)


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgb16'])
def test_the_picture_shares_no_memory_with_the_message(encoding: str) -> None:
    message = image_of(encoding)
    before = message.data.tobytes()
    decoded = decode_image(message)
    decoded[:] = 0
    assert message.data.tobytes() == before


def test_sixteen_bits_keep_their_upper_byte() -> None:
    values = np.array([[0, 255, 256, 32768, 65280, 65535]], np.uint16)
    message = Image(height=1, width=6, encoding='mono16', step=12, data=values.tobytes())
    assert decode_image(message)[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]


def test_a_picture_of_one_pixel_is_a_picture() -> None:
    message = Image(height=1, width=1, encoding='bgr8', step=3, data=bytes([1, 2, 3]))
    assert decode_image(message).tolist() == [[[3, 2, 1]]]


def compressed(suffix: str, pixels: np.ndarray, text: str, *options: int) -> CompressedImage:
    """Return (H, W[, C]) in OpenCV's order as a CompressedImage."""
    done, data = cv2.imencode(suffix, pixels, list(options))
    assert done
    return CompressedImage(format=text, data=data.tobytes())


BGR = PICTURE[..., ::-1]
BEST_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 100)
COMPRESSED = {
    'jpeg': (compressed('.jpg', BGR, 'jpeg', *BEST_JPEG), PICTURE, 9),
    'no word about the format': (compressed('.jpg', BGR, '', *BEST_JPEG), PICTURE, 9),
    'jpeg of image_transport': (
        compressed('.jpg', BGR, 'rgb8; jpeg compressed bgr8', *BEST_JPEG),
        PICTURE,
        6,
    ),
    'jpeg that says png': (compressed('.jpg', BGR, 'png', *BEST_JPEG), PICTURE, 9),
    'progressive jpeg': (
        compressed('.jpg', BGR, 'jpeg', *BEST_JPEG, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        PICTURE,
        6,
    ),
    'grey jpeg': (compressed('.jpg', GREY, 'mono8; jpeg compressed mono8'), AS_GREY, 4),
    **{
        f'jpeg of a driver that says {text}': (
            compressed('.jpg', BGR, text, *BEST_JPEG),
            PICTURE,
            6,
        )
        for text in (
            'jpg',
            '; jpeg',
            'JPEG',
            'rgb8; jpeg compressed rgb8',
            'bgr8; jpeg compressed bgr8',
            'bgr8; jpeg compressed rgb8',
            'rgba8; jpeg compressed bgr8',
            'yuv422; jpeg compressed',
            'yuv422_yuy2; jpeg compressed bgr8',
            'bayer_rggb8; jpeg compressed bgr8',
        )
    },
    'png of a driver': (compressed('.png', BGR, 'rgb8; png compressed rgb8'), PICTURE, 0),
    'webp': (compressed('.webp', BGR, 'webp', cv2.IMWRITE_WEBP_QUALITY, 101), PICTURE, 0),
    'webp with loss': (
        compressed('.webp', BGR, 'rgb8; webp', cv2.IMWRITE_WEBP_QUALITY, 95),
        PICTURE,
        16,
    ),
    'webp with alpha': (
        compressed('.webp', BGRA, 'webp', cv2.IMWRITE_WEBP_QUALITY, 101),
        PICTURE,
        3,
    ),
    # The transport writes a TIFF of the image as it is, with no word for the order.
    'tiff of bgr8': (compressed('.tiff', BGR, 'bgr8; tiff compressed '), PICTURE, 0),
    'tiff that says bgr8': (compressed('.tiff', BGR, 'bgr8; tiff compressed bgr8'), PICTURE, 0),
    'tiff of rgb8': (compressed('.tiff', PICTURE, 'rgb8; tiff compressed '), PICTURE, 0),
    'tiff of rgb16': (
        compressed('.tiff', to_16_bits(PICTURE), 'rgb16; tiff compressed '),
        PICTURE,
        0,
    ),
    'tiff of rgba8': (compressed('.tiff', RGBA, 'rgba8; tiff compressed '), PICTURE, 0),
    'tiff of mono8': (compressed('.tiff', GREY, 'mono8; tiff compressed '), AS_GREY, 0),
    'tiff of a mosaic': (
        compressed('.tiff', mosaic('gbrg'), 'bayer_gbrg8; tiff compressed '),
        PICTURE,
        9,
    ),
    'a mosaic that image_transport made grey': (
        compressed('.jpg', GREY, 'bayer_rggb8; jpeg compressed mono8', *BEST_JPEG),
        AS_GREY,
        4,
    ),
    'a mosaic in a jpeg of ROS 1': (
        compressed('.jpg', mosaic('rggb'), 'bayer_rggb8; jpeg compressed ', *BEST_JPEG),
        PICTURE,
        12,
    ),
    'png': (compressed('.png', BGR, 'png'), PICTURE, 0),
    'png of image_transport': (compressed('.png', BGR, 'bgr8; png compressed bgr8'), PICTURE, 0),
    'png with alpha': (compressed('.png', BGRA, 'rgba8; png compressed bgra8'), PICTURE, 0),
    'png of 16 bits': (
        compressed('.png', to_16_bits(BGR), 'rgb16; png compressed bgr16'),
        PICTURE,
        0,
    ),
    'png of 16 bits with alpha': (compressed('.png', to_16_bits(BGRA), 'png'), PICTURE, 0),
    'grey png': (compressed('.png', GREY, 'mono8; png compressed '), AS_GREY, 0),
    'grey png of 16 bits': (
        compressed('.png', to_16_bits(GREY), 'mono16; png compressed '),
        AS_GREY,
        0,
    ),
    **{
        f'mosaic {pattern}': (
            compressed('.png', mosaic(pattern), f'bayer_{pattern}8; png compressed '),
            PICTURE,
            9,
        )
        for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')
    },
    'mosaic of 16 bits': (
        compressed('.png', to_16_bits(mosaic('rggb')), 'bayer_rggb16; png compressed '),
        PICTURE,
        9,
    ),
}


@pytest.mark.parametrize('name', COMPRESSED)
def test_every_compressed_image_becomes_the_same_picture(name: str) -> None:
    message, picture, tolerance = COMPRESSED[name]
    assert worst_difference(inner(decode_image(message)), inner(picture)) <= tolerance
    assert np.array_equal(decode_image(from_bag(message)), decode_image(message))


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack('>I', len(content)) + name + content + struct.pack('>I', checksum)


def test_a_png_with_a_palette_or_one_bit_is_read() -> None:
    """OpenCV writes neither, so both are written here: a row of two pixels, 1 bit each."""
    head = struct.pack('>IIBBBBB', 2, 1, 1, 3, 0, 0, 0)
    palette = bytes([255, 0, 0, 0, 0, 255])
    data = b'\x89PNG\r\n\x1a\n' + png_chunk(b'IHDR', head) + png_chunk(b'PLTE', palette)
    data += png_chunk(b'IDAT', zlib.compress(b'\x00\x40')) + png_chunk(b'IEND', b'')
    decoded = decode_image(CompressedImage(format='png', data=data))
    assert decoded.tolist() == [[[255, 0, 0], [0, 0, 255]]]
    head = struct.pack('>IIBBBBB', 2, 1, 1, 0, 0, 0, 0)
    data = b'\x89PNG\r\n\x1a\n' + png_chunk(b'IHDR', head)
    data += png_chunk(b'IDAT', zlib.compress(b'\x00\x40')) + png_chunk(b'IEND', b'')
    decoded = decode_image(CompressedImage(format='png', data=data))
    assert decoded.tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_an_orientation_noted_in_a_jpeg_is_ignored() -> None:
    message = COMPRESSED['jpeg'][0]
    plain = message.data.tobytes()
    tag = struct.pack('>HHIHH', 0x0112, 3, 1, 6, 0)
    exif = b'Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01' + tag + b'\x00\x00\x00\x00'
    segment = b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif
    turned = CompressedImage(format='jpeg', data=plain[:2] + segment + plain[2:])
    pixels = np.frombuffer(turned.data, np.uint8)
    assert cv2.imdecode(pixels, cv2.IMREAD_COLOR).shape == (WIDTH, HEIGHT, 3), 'the tag is there'
    assert np.array_equal(decode_image(turned), decode_image(message))


def changed(message: Any, **fields: Any) -> Any:
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def claiming(message: CompressedImage, width: int, height: int) -> CompressedImage:
    """Return a PNG whose header names another size, with the right checksum."""
    data = message.data.tobytes()
    head = struct.pack('>II', width, height) + data[24:29]
    return CompressedImage(format='png', data=data[:8] + png_chunk(b'IHDR', head) + data[33:])


def hiding(large: CompressedImage, small: CompressedImage) -> CompressedImage:
    """Return a JPEG that a decoder takes for the large one, and a hasty look for the small one."""
    begin = b'\xff\xd8\xff\x01' + large.data.tobytes()[2:]
    # The two bytes after the marker, of the next one, as a length.
    skipped = 4 + int.from_bytes(begin[4:6], 'big')
    return changed(large, data=begin.ljust(skipped, b'\0') + small.data.tobytes()[2:])


def tiff_claiming(
    message: CompressedImage, width: int, height: int, tag: int | None = None
) -> CompressedImage:
    """Return a TIFF that names another size, and another tag instead of its last one."""
    data = bytearray(message.data.tobytes())
    (at,) = struct.unpack_from('<I', data, 4)
    (count,) = struct.unpack_from('<H', data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        side = {256: width, 257: height}.get(struct.unpack_from('<H', data, entry)[0])
        if side is not None:
            struct.pack_into('<HII', data, entry + 2, 4, 1, side)
    if tag is not None:
        struct.pack_into('<H', data, entry, tag)
    return CompressedImage(format='tiff', data=bytes(data))


def webp_claiming(message: CompressedImage, width: int, height: int) -> CompressedImage:
    """Return a WebP with loss that names another size."""
    data = bytearray(message.data.tobytes())
    assert data[12:16] == b'VP8 '
    struct.pack_into('<HH', data, 26, width, height)
    return CompressedImage(format='webp', data=bytes(data))


def deflated(message: Image) -> CompressedImage:
    """Return an image as zstd_image_transport writes it: with zlib."""
    encoding = message.encoding.encode()
    head = struct.pack(
        '<IIBII', message.height, message.width, message.is_bigendian, message.step, len(encoding)
    )
    data = head + encoding + zlib.compress(message.data.tobytes())
    return CompressedImage(format='zstd', data=data)


def jpeg_claiming(message: CompressedImage, width: int, height: int) -> CompressedImage:
    data = bytearray(message.data.tobytes())
    frame = data.index(b'\xff\xc0')
    data[frame + 5 : frame + 9] = struct.pack('>HH', height, width)
    return CompressedImage(format='jpeg', data=bytes(data))


def cut(message: Any, count: int) -> Any:
    return changed(message, data=message.data.tobytes()[:count])


def fresh(name: str) -> CompressedImage:
    message = COMPRESSED[name][0]
    return CompressedImage(format=message.format, data=message.data.tobytes())


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    'unknown encoding': (
        lambda: changed(image_of('rgb8'), encoding='rgb9'),
        r"'rgb9' is not supported; supported are mono8, rgb8, .*nv24",
    ),
    'an encoding without end': (
        lambda: changed(image_of('rgb8'), encoding='x' * 100_000),
        r"'x{60}…' is not supported",
    ),
    'a format without end': (
        lambda: CompressedImage(format='x' * 100_000, data=b'GIF89a'),
        r"\('x{60}…'\) is neither",
    ),
    'empty encoding': (
        lambda: changed(image_of('rgb8'), encoding=''),
        "encoding '' is not supported",
    ),
    'depth as picture': (
        lambda: changed(image_of('rgb8'), encoding='32FC1'),
        "'32FC1' is a depth.*`depth`",
    ),
    'data truncated': (
        lambda: cut(image_of('rgb8'), HEIGHT * WIDTH * 3 - 1),
        'truncated: 64x48 pixels .* take 9216 bytes, but it has 9215',
    ),
    'no data': (lambda: cut(image_of('nv12'), 0), 'truncated.*has 0'),
    'nv12 without chroma': (lambda: cut(image_of('nv12'), HEIGHT * WIDTH), 'truncated'),
    'nv24 with the chroma of nv12': (
        lambda: cut(image_of('nv24'), HEIGHT * WIDTH * 3 // 2),
        'truncated',
    ),
    'step too small': (
        lambda: changed(image_of('bgr8'), step=WIDTH * 3 - 1),
        'step is 191, but a row of 64 pixels .* takes 192',
    ),
    'step zero': (lambda: changed(image_of('bgr8'), step=0), 'step is 0'),
    'no rows': (lambda: changed(image_of('rgb8'), height=0), 'empty: 64x0'),
    'no columns': (lambda: changed(image_of('rgb8'), width=0), 'empty: 0x48'),
    'too many pixels': (
        lambda: changed(image_of('mono8'), width=2**31, height=2**31),
        '2147483648x2147483648 pixels; at most 64,000,000',
    ),
    'odd width in 4:2:2': (lambda: changed(image_of('yuyv'), width=63), 'width must be even'),
    'odd width in nv21': (lambda: changed(image_of('nv21'), width=63), 'width must be even'),
    'odd height in nv12': (lambda: changed(image_of('nv12'), height=47), 'height must be even'),
    'no compressed data': (
        lambda: CompressedImage(format='jpeg'),
        "'jpeg'.* neither JPEG nor PNG; its 0 bytes start with nothing",
    ),
    'a TIFF of depth': (
        lambda: compressed('.tiff', GREY.astype(np.float32), '32FC1; tiff compressed '),
        r"'32FC1; tiff compressed '.* float32, which is not a colour image; if it is depth",
    ),
    'a TIFF cut in its header': (
        lambda: cut(compressed('.tiff', BGR, 'tiff'), 12),
        'TIFF is truncated',
    ),
    'a TIFF of absurd size': (
        lambda: tiff_claiming(compressed('.tiff', BGR, 'tiff'), 60_000, 60_000),
        '60000x60000 pixels; at most 64,000,000',
    ),
    'a TIFF of tiles': (
        lambda: tiff_claiming(compressed('.tiff', BGR, 'tiff'), 64, 48, tag=322),
        'is tiled',
    ),
    'a WebP cut in its header': (
        lambda: cut(compressed('.webp', BGR, 'webp'), 20),
        'WebP is truncated',
    ),
    'a WebP of absurd size': (
        lambda: webp_claiming(
            compressed('.webp', BGR, 'webp', cv2.IMWRITE_WEBP_QUALITY, 80), 16_000, 16_000
        ),
        '16000x16000 pixels; at most 64,000,000',
    ),
    'a WebP cut in its pixels': (lambda: cut(compressed('.webp', BGR, 'webp'), 200), 'corrupt'),
    'an AVIF': (
        lambda: CompressedImage(format='avif', data=b'\0\0\0\x1cftypavif'),
        "'avif'.* neither JPEG nor PNG, nor TIFF nor WebP: set its publisher",
    ),
    'a JPEG XL': (
        lambda: CompressedImage(format='rgb8; jxl', data=b'\xff\x0a1234'),
        "'rgb8; jxl'.* neither JPEG nor PNG, nor TIFF nor WebP",
    ),
    'a video': (
        lambda: CompressedImage(format='h264', data=b'\x00\x00\x00\x01\x67'),
        "'h264'.* video packet, neither .*subscribe to the raw topic",
    ),
    'another video': (
        lambda: CompressedImage(format='yuv420p; hevc', data=b'\x00\x00\x00\x01\x67'),
        "'yuv420p; hevc'.* video packet",
    ),
    'true Zstandard': (
        lambda: CompressedImage(format='zstd', data=b'\x28\xb5\x2f\xfd1234'),
        'compressed with Zstandard itself',
    ),
    'zstd truncated': (lambda: cut(deflated(image_of('rgb8')), 12), 'truncated: 12 bytes'),
    'zstd cut in its pixels': (
        lambda: cut(deflated(image_of('rgb8')), 200),
        'truncated: 64x48 pixels',
    ),
    'zstd of absurd size': (
        lambda: deflated(changed(image_of('mono8'), width=10**6, height=10**6)),
        '1000000x1000000 pixels; at most',
    ),
    'zstd of an absurd step': (
        lambda: deflated(changed(image_of('mono8'), step=2**31)),
        'its header contradicts its size',
    ),
    'zstd that is none': (
        lambda: changed(
            deflated(image_of('mono8')),
            data=deflated(image_of('mono8')).data.tobytes()[:22] + b'nothing',
        ),
        'is corrupt',
    ),
    'JPEG cut in its header': (lambda: cut(fresh('jpeg'), 20), 'contain no image size'),
    'JPEG cut in its pixels': (
        lambda: cut(fresh('jpeg'), len(fresh('jpeg').data) // 2),
        'JPEG is truncated: .* no end marker',
    ),
    'JPEG without pixels': (
        lambda: CompressedImage(
            format='jpeg', data=fresh('jpeg').data.tobytes()[:200] + b'\xff\xd9'
        ),
        'corrupt|truncated|cannot be decoded|no image size',
    ),
    'PNG cut in its header': (lambda: cut(fresh('png'), 20), 'truncated'),
    'PNG cut in its pixels': (lambda: cut(fresh('png'), len(fresh('png').data) // 2), 'corrupt'),
    'PNG with a wrong checksum': (
        lambda: changed(
            fresh('png'),
            data=fresh('png').data.tobytes()[:60] + b'!' + fresh('png').data.tobytes()[61:],
        ),
        'corrupt',
    ),
    'PNG of absurd size': (
        lambda: claiming(fresh('png'), 60000, 60000),
        '60000x60000 pixels; at most 64,000,000',
    ),
    'PNG of size zero': (lambda: claiming(fresh('png'), 0, 9), 'empty: 0x9'),
    'JPEG of absurd size': (
        lambda: jpeg_claiming(fresh('jpeg'), 65000, 65000),
        '65000x65000 pixels; at most',
    ),
    'JPEG with a marker that hides its size': (
        # Decoders step over a marker without a length and find the true frame, which is too large;
        # who reads a length there finds a small one further on.
        lambda: hiding(jpeg_claiming(fresh('jpeg'), 60000, 60000), fresh('jpeg')),
        'contain no image size',
    ),
    'JPEG of size zero': (lambda: jpeg_claiming(fresh('jpeg'), 64, 0), 'empty: 64x0'),
    'compressedDepth as picture': (
        lambda: CompressedImage(format='16UC1; compressedDepth png', data=bytes(40)),
        'is a depth.*`depth`',
    ),
    'unknown mosaic': (
        lambda: changed(fresh('grey png'), format='bayer_rgbw8; png compressed '),
        "'bayer_rgbw8' is not supported",
    ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_decoded_is_refused_by_name(name: str) -> None:
    make, sentence = REFUSED[name]
    with pytest.raises(BadImage, match=sentence):
        decode_image(make())


def test_the_limit_of_pixels_is_the_callers() -> None:
    with pytest.raises(BadImage, match='at most 3,071'):
        decode_image(image_of('rgb8'), max_pixels=HEIGHT * WIDTH - 1)
    with pytest.raises(BadImage, match='at most 3,071'):
        decode_image(fresh('jpeg'), max_pixels=HEIGHT * WIDTH - 1)
    assert decode_image(image_of('rgb8'), max_pixels=HEIGHT * WIDTH).shape == PICTURE.shape


@settings(max_examples=150, deadline=None)
@given(
    encoding=st.sampled_from([*SENT, '32FC1', 'nonsense']),
    width=st.integers(0, 9),
    height=st.integers(0, 9),
    step=st.integers(0, 80),
    big_endian=st.booleans(),
    data=st.binary(max_size=700),
)
def test_any_image_is_decoded_or_refused(
    encoding: str, width: int, height: int, step: int, big_endian: bool, data: bytes
) -> None:
    message = Image(
        height=height,
        width=width,
        encoding=encoding,
        step=step,
        is_bigendian=big_endian,
        data=data,
    )
    for decode, shape, dtype in (
        (decode_image, (height, width, 3), np.uint8),
        (decode_depth, (height, width), np.float32),
    ):
        try:
            decoded = decode(message)
        except BadImage as refusal:
            assert str(refusal)
        else:
            assert (decoded.shape, decoded.dtype) == (shape, dtype)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(
        [
            'jpeg',
            'png',
            'grey png of 16 bits',
            'progressive jpeg',
            'webp',
            'webp with loss',
            'webp with alpha',
            'tiff of bgr8',
            'tiff of rgb16',
        ]
    ),
    place=st.floats(0, 1, exclude_max=True),
    wrong=st.binary(min_size=1, max_size=6),
)
def test_any_damaged_file_is_decoded_or_refused(name: str, place: float, wrong: bytes) -> None:
    message = fresh(name)
    data = bytearray(message.data.tobytes())
    at = int(place * len(data))
    data[at : at + len(wrong)] = wrong
    message.data = bytes(data)
    try:
        decoded = decode_image(message, max_pixels=4 * HEIGHT * WIDTH)
    except BadImage as refusal:
        assert str(refusal)
    else:
        assert decoded.ndim == 3
        assert decoded.dtype == np.uint8


@pytest.mark.parametrize('encoding', [*SENT])
def test_the_transport_zstd_gives_the_same_picture(encoding: str) -> None:
    message = image_of(encoding, padding=4)
    assert np.array_equal(decode_image(deflated(message)), decode_image(message))


def test_a_jpeg_that_holds_red_green_and_blue_is_read_as_it_says() -> None:
    """Without the step to YCbCr: its components are called R, G and B."""
    import io

    from PIL import Image as PillowImage

    file = io.BytesIO()
    PillowImage.fromarray(PICTURE).save(file, 'jpeg', quality=100, keep_rgb=True)
    for text in ('jpeg', 'rgb8; jpeg compressed rgb8', 'rgb8; jpeg compressed bgr8'):
        decoded = decode_image(CompressedImage(format=text, data=file.getvalue()))
        assert worst_difference(decoded, PICTURE) <= 3


def test_what_a_format_says_wrongly_is_warned_about_once(caplog) -> None:
    for text in ('bgr16; jpeg compressed rgb8', 'bgr16; jpeg compressed rgb8'):
        decode_image(compressed('.jpg', BGR, text))
    assert caplog.text.count('no version of image_transport writes it') == 1
    for _ in range(2):
        decode_image(compressed('.jpg', GREY, 'bayer_grbg8; jpeg compressed mono8'))
    assert caplog.text.count('set the publisher to png') == 1


def as_sensor(bits: int, brightest: float = 1.0) -> np.ndarray:
    """Return GREY with the values that a sensor of so many bits gives, (H, W) uint16."""
    values = GREY.astype(float) / GREY.max() * brightest * ((1 << bits) - 1)
    return values.round().astype(np.uint16)


def as_mono16(pixels: np.ndarray, encoding: str = 'mono16') -> Image:
    return Image(
        height=HEIGHT, width=WIDTH, encoding=encoding, step=2 * WIDTH, data=pixels.tobytes()
    )


@pytest.mark.parametrize('bits', [10, 12, 14, 16])
@pytest.mark.parametrize('encoding', ['mono16', '16UC1'])
def test_a_sensor_s_bits_fill_the_range(bits: int, encoding: str) -> None:
    decoded = decode_image(as_mono16(as_sensor(bits), encoding))[..., 0]
    expected = as_sensor(bits) >> (bits - 8)
    assert np.array_equal(decoded, expected)
    assert decoded.max() >= 250
    png = compressed('.png', as_sensor(bits), f'{encoding}; png compressed ')
    assert np.array_equal(decode_image(png)[..., 0], expected)


def test_a_mosaic_of_twelve_bits_is_not_black() -> None:
    sixteen = np.ascontiguousarray(mosaic('rggb').astype(np.uint16) << 4)
    decoded = decode_image(as_mono16(sixteen, 'bayer_rggb16'))
    assert worst_difference(inner(decoded), inner(PICTURE)) <= 9


@pytest.mark.parametrize('bits', [10, 12, 14])
def test_hot_pixels_do_not_make_an_image_black(bits: int) -> None:
    pixels = as_sensor(bits)
    expected = decode_image(as_mono16(pixels))
    pixels[5, 7] = pixels[30, 40] = 65535
    decoded = decode_image(as_mono16(pixels))
    assert decoded[5, 7, 0] == 255
    same = decoded == expected
    assert np.count_nonzero(~same[..., 0]) <= 2


def test_brightness_does_not_follow_the_scene() -> None:
    """The same value is the same grey while the brightest part is in the range's upper half."""
    greys = set()
    for brightest in np.linspace(0.51, 1.0, 15):
        pixels = as_sensor(14, brightest)
        pixels[0, 0] = 3000
        greys.add(int(decode_image(as_mono16(pixels))[0, 0, 0]))
    assert greys == {3000 >> 6}


@pytest.mark.parametrize('around', [1024, 2048, 4096, 8192, 16384, 32768])
def test_a_scene_that_changes_a_little_does_not_flicker(around: int) -> None:
    """Also where its brightest part comes and goes beyond what fewer bits hold."""
    before = None
    for brightest in (0.97, 1.0, 1.03):
        pixels = np.full((HEIGHT, WIDTH), around // 2, np.uint16)
        pixels[:4] = min(round(brightest * around), 65535)
        grey = int(decode_image(as_mono16(pixels))[-1, 0, 0])
        assert before is None or abs(grey - before) <= 0.12 * before
        before = grey


def test_no_image_is_whiter_than_white_nor_darker_than_a_quarter() -> None:
    for brightest in (256, 1023, 1500, 4095, 5000, 9000, 16383, 20000, 65535):
        pixels = np.linspace(0, brightest, WIDTH * HEIGHT).astype(np.uint16)
        decoded = decode_image(as_mono16(pixels.reshape(HEIGHT, WIDTH)))[..., 0].reshape(-1)
        assert (np.diff(decoded.astype(int)) >= 0).all()
        assert np.count_nonzero(decoded == 255) <= 0.02 * decoded.size
        assert decoded.max() >= 63


def test_a_jpeg_of_a_thermal_image_is_not_black() -> None:
    """image_transport keeps the upper byte: of twelve bits, four are left."""
    left = (as_sensor(12) >> 8).astype(np.uint8)
    decoded = decode_image(compressed('.png', left, 'mono16; png compressed mono8'))
    assert decoded.max() < 20, 'a PNG keeps 16 bits, so this one is of 8'
    decoded = decode_image(compressed('.jpg', left, 'mono16; jpeg compressed mono8'))
    assert decoded.max() >= 200


def test_a_message_is_read_by_its_fields_alone() -> None:
    pixels = SimpleNamespace(
        height=1, width=1, encoding='rgb8', is_bigendian=False, step=3, data=b'\x01\x02\x03'
    )
    assert decode_image(pixels).tolist() == [[[1, 2, 3]]]
