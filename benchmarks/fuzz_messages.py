"""Seeded random messages, many of them invalid."""

from __future__ import annotations

import random
import string
import struct
from typing import Any

import cv2
from lifecycle_msgs.msg import Transition
import numpy as np
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from segzero_ros.parameter_table import BY_NAME

ENCODINGS = (
    'rgb8', 'bgr8', 'rgba8', 'mono8', 'mono16', 'bayer_rggb8', 'yuv422', 'nv12', 'nv24', '16UC1',
    '32FC1', '64FC1', '8UC3', '', 'nonsense', 'RGB8',
)  # fmt: skip
ONE, TWO, FOUR = ('mono8', 'bayer_rggb8'), ('mono16', 'yuv422', '16UC1'), ('rgba8', '32FC1')
BYTES = {name: size for size, names in ((1, ONE), (2, TWO), (4, FOUR)) for name in names}
ODD_SIZES = (0, 1, 2, 65535, 2**31 - 1, 2**32 - 1)
ODD_NUMBERS = (0.0, -0.0, float('nan'), float('inf'), float('-inf'), 1e-300, 1e300, -1.0)
WORDS = ('the', 'red', 'biggest', 'thing', 'left of', '3', 'second', 'everything', 'no', '?')
FORMATS = ('jpeg', 'png', 'rgb8; jpeg compressed bgr8', '16UC1; compressedDepth png', '', 'h264')
# Parameters that would load other models.
NOT_SET = {
    'reasoner.backend',
    'reasoner.model',
    'segmenter.backend',
    'segmenter.model',
    'server.base_url',
    'offline',
}
STEPS = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
    *(0, 8, 10, 60, 97, 255),
)


class Messages:
    """Makes random messages of all kinds that the node receives."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self) -> str:
        """Return words, Unicode, control characters, or very long text."""
        kind = self.random.randrange(5)
        if kind == 0:
            return ' '.join(self.random.choices(WORDS, k=self.random.randrange(12)))
        if kind == 1:
            return ''.join(map(chr, self.random.choices(range(1, 0xD800), k=40)))
        if kind == 2:
            return ''.join(map(chr, self.random.choices(range(1, 160), k=60)))
        if kind == 3:
            return self.random.choice(WORDS) * self.random.choice((1, 100, 25_000))
        return ''.join(self.random.choices(string.printable + '🔴\u202e\ufeff', k=30))

    def image(self) -> Image:
        """Return an image, valid or with one or several errors."""
        width, height = self.random.randrange(1, 200), self.random.randrange(1, 150)
        encoding = self.random.choice(ENCODINGS)
        step = width * BYTES.get(encoding, 3)
        size = step * height * (3 if encoding == 'nv24' else 1)
        image = Image(width=width, height=height, encoding=encoding, step=step)
        image.data = self.random.randbytes(size)
        self._stamp(image)
        for _ in range(self.random.choice((0, 0, 1, 1, 3))):
            name = self.random.choice(('width', 'height', 'step', 'data', 'is_bigendian'))
            if name == 'data':
                image.data = self.random.randbytes(self.random.randrange(size + 100))
            elif name == 'is_bigendian':
                image.is_bigendian = self.random.randrange(256)
            else:
                setattr(image, name, self.random.choice(ODD_SIZES))
        return image

    def compressed(self) -> CompressedImage:
        """Return a JPEG or PNG, valid, damaged, or with a wrong size."""
        shape = (self.random.randrange(1, 150), self.random.randrange(1, 200), 3)
        pixels = np.frombuffer(self.random.randbytes(int(np.prod(shape))), np.uint8)
        ending = self.random.choice(('.jpg', '.png'))
        data = bytearray(cv2.imencode(ending, pixels.reshape(shape))[1].tobytes())
        kind = self.random.randrange(4)
        if kind == 1:
            del data[self.random.randrange(len(data)) :]
        elif kind == 2:
            for _ in range(8):
                data[self.random.randrange(len(data))] = self.random.randrange(256)
        elif kind == 3 and ending == '.png':
            struct.pack_into('>II', data, 16, *self.random.choices(ODD_SIZES, k=2))
        message = CompressedImage(format=self.random.choice(FORMATS), data=bytes(data))
        self._stamp(message)
        return message

    def info(self) -> CameraInfo:
        """Return intrinsics with NaN and infinity, and any number of coefficients."""
        info = CameraInfo(width=self._size(), height=self._size(), distortion_model=self.text())
        info.d = [self._number() for _ in range(self.random.choice((0, 5, 14, 5000)))]
        for name, count in (('k', 9), ('r', 9), ('p', 12)):
            setattr(info, name, [self._number() for _ in range(count)])
        info.binning_x, info.binning_y = self._size(), self._size()
        info.roi.x_offset, info.roi.width = self._size(), self._size()
        self._stamp(info)
        return info

    def garbage(self, message: Any) -> bytes:
        """Return a serialized message truncated, changed, or replaced by other bytes."""
        data = bytearray(serialize_message(message))
        kind = self.random.randrange(4)
        if kind == 0:
            return bytes(data[: self.random.randrange(4, len(data) + 1)])
        if kind == 1:
            return self.random.randbytes(self.random.randrange(4, 2000))
        if kind == 2:
            return bytes(serialize_message(String(data=self.text())))
        for _ in range(8):
            data[self.random.randrange(4, len(data))] = self.random.randrange(256)
        return bytes(data)

    def parameter(self) -> Any:
        """Return a parameter message, mostly of an existing parameter, with any value."""
        names = sorted(set(BY_NAME) - NOT_SET)
        name = self.random.choice((*names, 'no_such_thing'))
        value: Any = self.random.choice(
            (True, -1, 0, 1, 2**31, 2**62, self._number(), self.text(), [1, 2], ['a'], None)
        )
        return Parameter(name, value=value).to_parameter_msg()

    def transition(self) -> Transition:
        """Return a valid or invalid transition."""
        return Transition(id=self.random.choice(STEPS))

    def _number(self) -> float:
        return self.random.choice((*ODD_NUMBERS, self.random.uniform(-2000, 2000)))

    def _size(self) -> int:
        return self.random.choice((*ODD_SIZES, self.random.randrange(2000)))

    def _stamp(self, message: Any) -> None:
        message.header.stamp.sec = self.random.choice(
            (0, 1, -1, -(2**31), 2**31 - 1, 1_700_000_000)
        )
        message.header.stamp.nanosec = self.random.choice((0, 999_999_999, 2**32 - 1))
        message.header.frame_id = self.text()
