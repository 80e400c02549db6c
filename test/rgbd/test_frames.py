"""Where there is a depth camera and no pose, or a doubtful one, the answer's message says why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('sensor_msgs.msg')

from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image

from segzero_ros.rgbd.buffer import RgbdBuffer
from segzero_ros.rgbd.frames import make_frame, pairing_warnings
from segzero_ros.rgbd.message_buffer import read_frame_id

WIDTH, HEIGHT = 64, 48
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def stamped(message: Any, at_ns: int, frame_id: str) -> Any:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(START + at_ns, SECOND)
    message.header.frame_id = frame_id
    return message


def colour(at_ns: int = 0, frame_id: str = 'color_optical') -> Image:
    data = bytes(3 * WIDTH * HEIGHT)
    message = Image(width=WIDTH, height=HEIGHT, encoding='rgb8', step=3 * WIDTH, data=data)
    return stamped(message, at_ns, frame_id)


def depth(at_ns: int = 0, frame_id: str = 'color_optical', width: int = WIDTH) -> Image:
    data = np.full((HEIGHT, width), 800, np.uint16).tobytes()
    message = Image(width=width, height=HEIGHT, encoding='16UC1', step=2 * width, data=data)
    return stamped(message, at_ns, frame_id)


def info(frame_id: str = 'color_optical', size=(WIDTH, HEIGHT), focal: float = 50.0) -> CameraInfo:
    k = [focal, 0.0, size[0] / 2, 0.0, focal, size[1] / 2, 0.0, 0.0, 1.0]
    return stamped(CameraInfo(width=size[0], height=size[1], k=k), 0, frame_id)


def warning(
    image: Image,
    depth_image: Image | None,
    camera_info: CameraInfo | None,
    *,
    no_depth: str = '',
    rectified: bool = False,
) -> tuple[Any, str]:
    """Put the messages through the store, as the node and the replay do."""
    store = RgbdBuffer(SECOND // 20)
    store.put_image(serialize_message(image), START)
    if depth_image is not None:
        store.put_depth(serialize_message(depth_image), START)
    if camera_info is not None:
        store.put_info(serialize_message(camera_info), START)
    rgbd = store.latest()
    return make_frame(
        image,
        lambda: depth_image if rgbd.depth is not None else None,
        camera_info,
        rectified=rectified,
        warnings=pairing_warnings(
            rgbd,
            '/camera/depth',
            no_depth=no_depth,
            no_info='nobody publishes /camera/camera_info',
        ),
    )


def test_what_fits_is_not_warned_about() -> None:
    frame, text = warning(colour(), depth(), info())
    assert text == ''
    assert frame.depth is not None
    assert frame.intrinsics is not None


def test_a_colour_camera_alone_is_not_warned_about() -> None:
    assert warning(colour(), None, None)[1] == ''
    assert warning(colour(), None, info('elsewhere', (9, 9)))[1] == ''


@pytest.mark.parametrize(
    ('depth_image', 'camera_info', 'options', 'sentence', 'has_depth'),
    [
        (None, info(), {'no_depth': 'nothing came.'}, 'no poses: nothing came.', False),
        (
            depth(-3 * SECOND),
            info(),
            {},
            'no poses: the nearest depth image on /camera/depth is 3.0 s older than the '
            'image: depth has stopped, or its stamps are from another clock.',
            False,
        ),
        (depth(9 * SECOND), info(), {}, 'is 9.0 s newer than the image: depth has stopped', False),
        (
            depth(-SECOND // 10),
            info(),
            {},
            'is 0.100 s older than the image, more than camera.max_depth_offset: depth has '
            'stopped, is delayed by more than 0.5 s, has not arrived yet, or',
            False,
        ),
        (
            depth(frame_id='depth_optical'),
            info(),
            {},
            'Poses may be wrong: the depth image on /camera/depth has the frame_id '
            "'depth_optical', the colour image 'color_optical'; use depth registered",
            True,
        ),
        (
            depth(),
            info('depth_optical'),
            {},
            "Poses may be wrong: the camera_info has the frame_id 'depth_optical', the image "
            "'color_optical'",
            True,
        ),
        (depth(), None, {}, 'no poses: nobody publishes /camera/camera_info.', True),
        (depth(), info(focal=0.0), {}, 'no poses: the camera_info is uncalibrated', True),
        (
            depth(),
            stamped(CameraInfo(k=info().k, d=[0.1], width=WIDTH, height=HEIGHT), 0, ''),
            {'rectified': True},
            'no poses: the camera_info is uncalibrated (its P is zero',
            True,
        ),
        (
            depth(),
            info(size=(2 * WIDTH, 2 * HEIGHT)),
            {},
            'Poses may be wrong: the camera_info is for 128x96 pixels, the image has 64x48; the '
            'intrinsics are scaled',
            True,
        ),
        (
            depth(),
            info(size=(WIDTH, WIDTH)),
            {},
            'no poses: the camera_info is for 64x64 pixels, the image has 64x48; use the',
            True,
        ),
        (depth(), info(size=(0, 0)), {}, 'no poses: the camera_info has no image', True),
        (
            depth(width=WIDTH // 2),
            info(),
            {},
            'no poses: the depth image cannot be used: it has 32x48 pixels, the colour image',
            False,
        ),
    ],
)
def test_what_gives_no_pose_or_a_doubtful_one_is_said(
    depth_image, camera_info, options, sentence, has_depth
) -> None:
    frame, text = warning(colour(), depth_image, camera_info, **options)
    assert sentence in text
    assert text.endswith(('.', ').'))
    assert (frame.depth is not None) == has_depth


def test_several_warnings_are_all_said() -> None:
    text = warning(colour(), depth(frame_id='a'), info('b', (2 * WIDTH, 2 * HEIGHT)))[1]
    assert text.count('Poses may be wrong') == 3


@pytest.mark.parametrize('frame_id', ['', 'camera', 'kamera_ä', 'a' * 300])
def test_the_frame_is_read_from_the_bytes(frame_id: str) -> None:
    for message in (colour(0, frame_id), info(frame_id)):
        assert read_frame_id(serialize_message(message)) == frame_id
    assert read_frame_id(serialize_message(colour(0, f'/{frame_id}'))) == frame_id


@pytest.mark.parametrize('cut', [0, 11, 15, 17])
def test_of_a_message_cut_short_no_frame_is_read(cut: int) -> None:
    assert read_frame_id(serialize_message(colour())[:cut]) == ''


def test_frames_that_are_not_named_contradict_nothing() -> None:
    assert warning(colour(frame_id=''), depth(frame_id='a'), info('b'))[1] == ''
    assert warning(colour(), depth(frame_id=''), info(''))[1] == ''
    assert warning(colour(frame_id='/color_optical'), depth(), info())[1] == ''


def test_messages_are_read_by_their_fields_alone() -> None:
    bare = SimpleNamespace(**{name: getattr(colour(), name) for name in ('header', 'width')})
    bare.height, bare.encoding, bare.is_bigendian = HEIGHT, 'rgb8', 0
    bare.step, bare.data = 3 * WIDTH, bytes(3 * WIDTH * HEIGHT)
    frame, text = make_frame(bare, lambda: None, None, rectified=False)
    assert (frame.width, frame.height, text) == (WIDTH, HEIGHT, '')
