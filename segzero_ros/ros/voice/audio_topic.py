"""Audio from a topic, with the messages of either package named audio_common_msgs.

ros-drivers/audio_common (apt: ros-jazzy-audio-common-msgs) publishes samples on `audio` and their
format on `audio_info`; mgonzs13/audio_common publishes both in each message on `audio`. Only one
of the two can be installed; the installed message types show which.
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

# Best effort is compatible with publishers of either reliability; deep, because a message may
# contain only 10 ms.
_QOS = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
# ros-drivers' audio_capture publishes `audio_info` latched at its start and every 5 s. A
# transient-local subscription receives nothing from a volatile publisher, so there are two.
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Maximum bytes of audio that are kept until its format is known: 5 s of 48 kHz stereo.
_MAX_UNDESCRIBED_BYTES = 1_000_000
# Values of `coding_format` of ros-drivers/audio_common for uncompressed samples.
_UNCOMPRESSED = ('wave', 'wav', 'pcm', 'raw')
# PortAudio's sample formats, as used by mgonzs13/audio_common: the field with the samples, their
# dtype and their name.
_PORTAUDIO_FORMATS = {
    1: ('float32_data', '<f4', 'F32LE'),
    2: ('int32_data', '<i4', 'S32LE'),
    8: ('int16_data', '<i2', 'S16LE'),
    16: ('int8_data', 'i1', 'S8'),
    32: ('uint8_data', 'u1', 'U8'),
}


class AudioTopic:
    """Subscriber to `audio`, as a source for the recogniser.

    All methods except `open` are called in the executor's thread.

    Attributes:
        topic: its full name.

    Args:
        node: owner of the subscriptions.

    Raises:
        SpeechError: audio_common_msgs is not installed, or is neither of the two.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.topic = node.resolve_topic_name('audio')
        self._info_topic = node.resolve_topic_name('audio_info')
        self._received = False
        self._encoding: Encoding | None = None
        self._undescribed: deque[bytes] = deque()
        self._error = ''
        self._source = PushedSource()
        self._type = self._subscribe(_messages())

    def open(self) -> PushedSource:
        """Return the audio source; a source returned before has ended.

        Raises:
            SpeechError: the audio format is not supported.
        """
        if self._error:
            raise SpeechError(self._error)
        if self._source.ended:
            self._source = PushedSource()
        return self._source

    def no_audio_reason(self) -> str:
        """Return why no audio can be recognised, with a hint; empty if audio arrives."""
        types = {info.topic_type for info in self._node.get_publishers_info_by_topic(self.topic)}
        missing = f'No audio {"any more" if self._received else "yet"} on {self.topic}: '
        if not types:
            return f'{missing}it has no publisher; remap it, such as -r audio:=/audio/audio.'
        if self._type not in types:
            return (
                f'{missing}it is published as {", ".join(sorted(types))}, but the '
                f'installed audio_common_msgs has {self._type}.'
            )
        if not self._received:
            return f'{missing}its publisher has not sent any.'
        if self._encoding is None and not self._error:
            return (
                f'Audio arrives on {self.topic}, but its format has not arrived on '
                f'{self._info_topic}; remap that too, such as -r audio_info:=/audio/audio_info.'
            )
        return ''

    def dropped(self) -> float:
        """Return the seconds of audio that arrived faster than they could be recognised."""
        return self._source.dropped

    def _subscribe(self, messages: Any) -> str:
        """Subscribe with the installed types; return the name of the audio type."""
        if hasattr(messages, 'AudioStamped'):
            self._node.create_subscription(
                messages.AudioStamped, 'audio', self._on_audio_stamped, _QOS
            )
            return 'audio_common_msgs/msg/AudioStamped'
        if hasattr(messages, 'AudioData') and hasattr(messages, 'AudioInfo'):
            for qos in (_QOS, _LATCHED):
                self._node.create_subscription(
                    messages.AudioInfo,
                    'audio_info',
                    self._on_info,
                    qos,
                    # One of the two may be incompatible by design: no warning.
                    event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
                )
            self._node.create_subscription(messages.AudioData, 'audio', self._on_audio_data, _QOS)
            return 'audio_common_msgs/msg/AudioData'
        raise SpeechError(
            'The installed audio_common_msgs has neither AudioStamped nor AudioData and '
            'AudioInfo: install ros-jazzy-audio-common-msgs.'
        )

    def _on_info(self, info: Any) -> None:
        """Handle the format, from ros-drivers/audio_common."""
        if info.coding_format.lower() in _UNCOMPRESSED:
            self._set_encoding(info.sample_format, info.sample_rate, info.channels)
        else:
            self._refuse(
                f'it is compressed ({info.coding_format or "format not given"}); start its '
                'publisher with format:=wave.'
            )

    def _on_audio_data(self, message: Any) -> None:
        self._forward(bytes(message.data))

    def _on_audio_stamped(self, message: Any) -> None:
        """Handle audio with its format, from mgonzs13/audio_common."""
        info = message.audio.info
        if info.format not in _PORTAUDIO_FORMATS:
            self._refuse(f'its PortAudio sample format {info.format} is not supported.')
            return
        field, dtype, samples = _PORTAUDIO_FORMATS[info.format]
        self._set_encoding(samples, info.rate, info.channels)
        self._forward(np.asarray(getattr(message.audio.audio_data, field), dtype).tobytes())

    def _set_encoding(self, samples: str, rate: int, channels: int) -> None:
        try:
            self._encoding = Encoding(samples, rate, channels)
        except SpeechError as error:
            self._refuse(str(error))
            return
        if self._error:
            # The recogniser gets the new source with its next `open`.
            self._source = PushedSource()
            self._error = ''
        while self._undescribed:
            self._source.put(self._undescribed.popleft(), self._encoding)

    def _refuse(self, reason: str) -> None:
        self._undescribed.clear()
        self._encoding, self._error = None, f'The audio on {self.topic} cannot be used: {reason}'
        self._source.fail(self._error)

    def _forward(self, data: bytes) -> None:
        self._received = True
        if self._encoding is not None:
            self._source.put(data, self._encoding)
        elif not self._error:
            self._undescribed.append(data)
            while sum(map(len, self._undescribed)) > _MAX_UNDESCRIBED_BYTES:
                self._undescribed.popleft()


def _messages() -> Any:
    """Return the module `audio_common_msgs.msg`."""
    try:
        from audio_common_msgs import msg
    except ImportError as error:
        raise SpeechError(
            f'The source `topic` needs the messages of audio_common_msgs ({error}): apt-get '
            'install ros-jazzy-audio-common-msgs, or build the package that your publisher uses, '
            'and source its setup.bash.'
        ) from error
    return msg
