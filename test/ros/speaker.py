"""A node that says what is in a WAV file, as a microphone's node of audio_common does.

Which audio_common, is told by the messages that are installed. It begins when somebody listens,
and is silent when the file is over. How it is written comes as audio_capture sends it, latched and
once; or, with `latched` false, again and again.
"""

from __future__ import annotations

from contextlib import suppress
import sys
import wave

from audio_common_msgs import msg
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, qos_profile_sensor_data, QoSProfile

BLOCK = 0.02
FLOAT32 = 1


class Speaker(Node):
    """Speaks in real time, of 16-bit samples."""

    def __init__(self) -> None:
        super().__init__('speaker')
        self._coding = self.declare_parameter('coding', 'wave').value
        self._file = wave.open(self.declare_parameter('path', '').value)  # noqa: SIM115
        if hasattr(msg, 'AudioStamped'):
            self._say, kind, qos = self._say_stamped, msg.AudioStamped, qos_profile_sensor_data
            self._info = None
        else:
            self._say, kind, qos = self._say_bytes, msg.AudioData, 10
            latched = self.declare_parameter('latched', True).value
            kept = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
            info_qos = QoSProfile(depth=1, durability=kept)
            self._info = self.create_publisher(msg.AudioInfo, 'audio_info', info_qos)
            if latched:
                self._tell()
            else:
                self.create_timer(0.2, self._tell)
        self._audio = self.create_publisher(kind, 'audio', qos)
        self.create_timer(BLOCK, self._speak)

    def _speak(self) -> None:
        heard = self._info is None or self._info.get_subscription_count()
        if heard and self._audio.get_subscription_count():
            data = self._file.readframes(round(self._file.getframerate() * BLOCK))
            if data:
                self._audio.publish(self._say(data))

    def _tell(self) -> None:
        info = msg.AudioInfo(sample_format='S16LE', coding_format=self._coding)
        info.channels, info.sample_rate = self._file.getnchannels(), self._file.getframerate()
        self._info.publish(info)

    def _say_bytes(self, data: bytes):
        return msg.AudioData(data=data)

    def _say_stamped(self, data: bytes):
        message = msg.AudioStamped()
        info = message.audio.info
        info.format, info.channels = FLOAT32, self._file.getnchannels()
        info.rate = self._file.getframerate()
        samples = np.frombuffer(data, '<i2').astype(np.float32) / 32768
        message.audio.audio_data.float32_data = samples.tolist()
        return message


if __name__ == '__main__':
    rclpy.init(args=sys.argv)
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(Speaker())
