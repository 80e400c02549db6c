"""Users' programs get and give OpenCV's images, by cv_bridge where it works, else without it."""

from __future__ import annotations

from collections.abc import Iterator
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from segzero_ros.conversions.image import decode_image
from segzero_ros.ros import opencv_images
from segzero_ros.ros.camera_sim.messages import compressed_message, image_message
from segzero_ros.ros.opencv_images import from_message, to_message
from segzero_ros.types import BadImage

RGB = np.random.default_rng(0).integers(0, 256, (7, 11, 3), np.uint8)
BGR = RGB[..., ::-1]


def works() -> bool:
    opencv_images._bridge.cache_clear()
    return opencv_images._bridge() is not None


needs_cv_bridge = pytest.mark.skipif(
    not works(), reason='needs ROS 2 cv_bridge, which no registry has as a wheel'
)


@pytest.fixture(params=['as it is', 'without cv_bridge'])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Convert with what is installed, and as if cv_bridge were not."""
    opencv_images._bridge.cache_clear()
    if request.param == 'without cv_bridge':
        monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    yield request.param
    opencv_images._bridge.cache_clear()


@pytest.mark.parametrize(('order', 'pixels'), [('bgr8', BGR), ('rgb8', RGB)])
def test_an_image_goes_there_and_back(way: str, order: Any, pixels: Any) -> None:
    header = Header(frame_id='eye')
    message = to_message(pixels, order, header)
    assert (message.encoding, message.header.frame_id) == (order, 'eye')
    assert (message.height, message.width, message.step) == (7, 11, 33)
    assert bytes(message.data) == pixels.tobytes()
    assert not message.is_bigendian
    assert np.array_equal(decode_image(message), RGB)
    for wanted, expected in (('bgr8', BGR), ('rgb8', RGB)):
        made = from_message(message, wanted)
        assert np.array_equal(made, expected)
        assert made.flags.c_contiguous
        made[:] = 0
    assert bytes(message.data) == pixels.tobytes(), 'memory of its own'


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16'])
def test_what_cameras_send_becomes_bgr(way: str, encoding: str) -> None:
    message = image_message(np.ascontiguousarray(RGB), encoding, Header())
    assert np.array_equal(from_message(message), decode_image(message)[..., ::-1])


def test_what_is_compressed_becomes_bgr(way: str) -> None:
    message = compressed_message(np.ascontiguousarray(RGB), 'png', Header())
    assert isinstance(message, CompressedImage)
    assert np.array_equal(from_message(message), BGR)


def padded(step: int, *, bigendian: bool = False) -> Image:
    """Return RGB with bytes after each row."""
    rows = np.full((7, step), 99, np.uint8)
    rows[:, :33] = RGB.reshape(7, 33)
    message = Image(height=7, width=11, encoding='rgb8', step=step, is_bigendian=bigendian)
    message.data = rows.tobytes()
    return message


@pytest.mark.parametrize('step', [33, 36, 40, 64])
def test_rows_may_end_anywhere_in_a_pixel(way: str, step: int) -> None:
    assert np.array_equal(from_message(padded(step)), BGR)


def test_the_order_of_bytes_is_heeded(way: str) -> None:
    assert np.array_equal(from_message(padded(33, bigendian=True)), BGR)
    deep = Image(height=1, width=2, encoding='mono16', step=4, is_bigendian=1)
    deep.data = bytes((0xFF, 0x00, 0x00, 0x01))
    assert from_message(deep).tolist() == [[[255] * 3, [0] * 3]]


def test_nv12_is_read_as_cameras_send_it(way: str) -> None:
    message = Image(height=2, width=2, encoding='nv12', step=2)
    message.data = bytes((81, 81, 81, 81, 90, 240))
    red = from_message(message)
    assert (red[..., 2] > 250).all()
    assert (red[..., :2] < 5).all()


def test_a_size_that_memory_does_not_hold_is_refused_first(way: str) -> None:
    message = Image(height=2**31, width=2**31, encoding='rgb8', step=2**32 - 1)
    message.data = bytes(12)
    with pytest.raises(BadImage, match='pixels'):
        from_message(message)
    with pytest.raises(BadImage):
        from_message(padded(33), max_pixels=76)


@pytest.mark.parametrize(
    'image',
    [
        RGB[..., 0],
        RGB.astype(np.float32),
        np.dstack([RGB, RGB[..., 0]]),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_what_is_no_colour_image_is_refused_in_a_sentence(way: str, image: Any) -> None:
    with pytest.raises(BadImage, match=r'must be \(H, W, 3\) uint8, not'):
        to_message(image)


def test_only_the_two_orders_are_known(way: str) -> None:
    with pytest.raises(BadImage, match="not 'gray'"):
        to_message(RGB, 'gray')  # type: ignore[arg-type]
    with pytest.raises(BadImage, match="not 'mono8'"):
        from_message(padded(33), 'mono8')  # type: ignore[arg-type]


@needs_cv_bridge
@pytest.mark.parametrize('encoding', sorted(opencv_images._BRIDGE_ENCODINGS))
@pytest.mark.parametrize('order', ['bgr8', 'rgb8'])
@pytest.mark.parametrize('pad', [0, 1])
def test_cv_bridge_and_the_nodes_decoder_give_the_same_pixels(
    encoding: str, order: Any, pad: int
) -> None:
    from cv_bridge import CvBridge

    pixel = opencv_images._BRIDGE_ENCODINGS[encoding]
    rows = np.random.default_rng(1).integers(0, 256, (9, (13 + pad) * pixel), np.uint8)
    message = Image(height=9, width=13, encoding=encoding, step=rows.shape[1])
    message.data = rows.tobytes()
    theirs = CvBridge().imgmsg_to_cv2(message, order)
    ours = decode_image(message)
    assert np.array_equal(theirs, ours if order == 'rgb8' else ours[..., ::-1])
    assert opencv_images._is_plain(message, 10**6)
    assert np.array_equal(from_message(message, order), theirs)


@needs_cv_bridge
def test_cv_bridge_is_what_converts(monkeypatch: pytest.MonkeyPatch) -> None:
    from cv_bridge import CvBridge

    used = []
    real = CvBridge.imgmsg_to_cv2
    monkeypatch.setattr(
        CvBridge, 'imgmsg_to_cv2', lambda *given: used.append(given[2]) or real(*given)
    )
    assert np.array_equal(from_message(padded(33)), BGR)
    assert used == ['bgr8']


def broken(error: Exception) -> ModuleType:
    """Return a cv_bridge that fails when it is used."""

    def fail(*_: object) -> None:
        raise error

    module = ModuleType('cv_bridge')
    module.CvBridge = lambda: SimpleNamespace(cv2_to_imgmsg=fail, imgmsg_to_cv2=fail)  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    'error', [ImportError('numpy.core.multiarray failed'), AttributeError('newbyteorder')]
)
def test_a_cv_bridge_that_does_not_work_here_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setitem(sys.modules, 'cv_bridge', broken(error))
    opencv_images._bridge.cache_clear()
    with caplog.at_level('INFO'):
        assert np.array_equal(from_message(to_message(BGR, 'bgr8'), 'rgb8'), RGB)
        from_message(padded(33))
    opencv_images._bridge.cache_clear()
    (record,) = [each for each in caplog.records if 'does not work and' in each.message]
    assert str(error) in record.message


def test_opencv_takes_what_is_made() -> None:
    assert cv2.cvtColor(from_message(padded(33)), cv2.COLOR_BGR2GRAY).shape == (7, 11)
