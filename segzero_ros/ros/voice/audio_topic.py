"""Sound from a topic, as the two packages named audio_common_msgs send it.

ros-drivers/audio_common (apt: ros-jazzy-audio-common-msgs) has the bytes on `audio` and how they
are written on `audio_info`; mgonzs13/audio_common has both in each message on `audio`. Only one of
them can be installed, so which one is told by what is there.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from segzero_ros.speech.base import SpeechError
from segzero_ros.speech.pcm import Encoding
from segzero_ros.speech.pushed_source import PushedSource

# Hears publishers of either reliability. A message may hold as little as 10 ms.
_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
# ros-drivers' audio_capture sends `audio_info` latched at its start and every 5 s. A subscription
# that gets what was latched gets nothing from a publisher that does not latch, so there are two.
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Bytes of sound that are kept until it is known how they are written: 5 s of 48 kHz stereo.
_KEPT = 1_000_000
# What ros-drivers/audio_common may call samples that are not compressed.
_UNCOMPRESSED = ('wave', 'wav', 'pcm', 'raw')
# PortAudio's numbers for formats, in mgonzs13/audio_common: the field with the samples, their
# type and their name.
_BY_NUMBER = {
    1: ('float32_data', '<f4', 'F32LE'),
    2: ('int32_data', '<i4', 'S32LE'),
    8: ('int16_data', '<i2', 'S16LE'),
    16: ('int8_data', 'i1', 'S8'),
    32: ('uint8_data', 'u1', 'U8'),
}


class AudioTopic:
    """The topic `audio` of a node, whose sound goes to one listener.

    Every method but `open` is called in the executor's thread.

    Attributes:
        topic: its name on the graph.

    Raises:
        SpeechError: audio_common_msgs is not installed, or is none of the two.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.topic = node.resolve_topic_name('audio')
        self._info_topic = node.resolve_topic_name('audio_info')
        self._came = False
        self._encoding: Encoding | None = None
        self._early: deque[bytes] = deque()
        self._refusal = ''
        self._source = PushedSource()
        self._type = self._subscribe(_messages())

    def open(self) -> PushedSource:
        """Return the sound; what was returned before has ended.

        Raises:
            SpeechError: what comes cannot be read.
        """
        if self._refusal:
            raise SpeechError(self._refusal)
        if self._source.ended:
            self._source = PushedSource()
        return self._source

    def absence(self) -> str:
        """Say why nothing can be heard; empty when something comes, or only nobody speaks."""
        types = {info.topic_type for info in self._node.get_publishers_info_by_topic(self.topic)}
        missing = f'No audio {"any more" if self._came else "yet"} on {self.topic}: '
        if not types:
            return f'{missing}nobody publishes it; remap it, such as -r audio:=/audio/audio.'
        if self._type not in types:
            return (
                f'{missing}it is published as {", ".join(sorted(types))}, but the '
                f'audio_common_msgs that is installed here has {self._type}.'
            )
        if not self._came:
            return f'{missing}its publisher has sent nothing.'
        if self._encoding is None and not self._refusal:
            return (
                f'Audio comes on {self.topic}, but how it is written has not come on '
                f'{self._info_topic}; remap that too, such as -r audio_info:=/audio/audio_info.'
            )
        return ''

    def dropped(self) -> float:
        """Return how many seconds of sound came faster than they were heard."""
        return self._source.dropped

    def _subscribe(self, messages: Any) -> str:
        """Subscribe to what is installed; return the type's name on the graph."""
        if hasattr(messages, 'AudioStamped'):
            self._node.create_subscription(
                messages.AudioStamped, 'audio', self._take_described, _QOS
            )
            return 'audio_common_msgs/msg/AudioStamped'
        if hasattr(messages, 'AudioData') and hasattr(messages, 'AudioInfo'):
            for qos in (_QOS, _LATCHED):
                self._node.create_subscription(
                    messages.AudioInfo,
                    'audio_info',
                    self._take_info,
                    qos,
                    # One of the two does not fit, as it should be.
                    event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
                )
            self._node.create_subscription(messages.AudioData, 'audio', self._take_bytes, _QOS)
            return 'audio_common_msgs/msg/AudioData'
        raise SpeechError(
            'The audio_common_msgs that is installed has neither AudioStamped nor AudioData and '
            'AudioInfo: install ros-jazzy-audio-common-msgs.'
        )

    def _take_info(self, info: Any) -> None:
        """Hear how the bytes are written, from a ros-drivers/audio_common."""
        if info.coding_format.lower() in _UNCOMPRESSED:
            self._describe(info.sample_format, info.sample_rate, info.channels)
        else:
            self._refuse(
                f'it is compressed ({info.coding_format or "nobody says how"}); start its '
                'publisher with format:=wave.'
            )

    def _take_bytes(self, message: Any) -> None:
        self._hand_on(bytes(message.data))

    def _take_described(self, message: Any) -> None:
        """Take sound that says how it is written, from an mgonzs13/audio_common."""
        info = message.audio.info
        if info.format not in _BY_NUMBER:
            self._refuse(f"its format, {info.format}, is none of PortAudio's that can be read.")
            return
        field, kind, samples = _BY_NUMBER[info.format]
        self._describe(samples, info.rate, info.channels)
        self._hand_on(np.asarray(getattr(message.audio.audio_data, field), kind).tobytes())

    def _describe(self, samples: str, rate: int, channels: int) -> None:
        try:
            self._encoding = Encoding(samples, rate, channels)
        except SpeechError as error:
            self._refuse(str(error))
            return
        if self._refusal:
            # Kept until the listener looks again.
            self._source = PushedSource()
            self._refusal = ''
        while self._early:
            self._source.put(self._early.popleft(), self._encoding)

    def _refuse(self, reason: str) -> None:
        self._early.clear()
        self._encoding, self._refusal = None, f'{self.topic} cannot be heard: {reason}'
        self._source.fail(self._refusal)

    def _hand_on(self, data: bytes) -> None:
        self._came = True
        if self._encoding is not None:
            self._source.put(data, self._encoding)
        elif not self._refusal:
            self._early.append(data)
            while sum(map(len, self._early)) > _KEPT:
                self._early.popleft()


def _messages() -> Any:
    """Return the module of the messages."""
    try:
        from audio_common_msgs import msg
    except ImportError as error:
        raise SpeechError(
            f'The source `topic` needs the messages of audio_common_msgs ({error}): apt-get '
            'install ros-jazzy-audio-common-msgs, or build the package that your publisher uses, '
            'and source its setup.bash.'
        ) from error
    return msg
