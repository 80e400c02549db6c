"""The packages named audio_common_msgs, built here: no registry has them as wheels.

Their messages are those of the two projects, field for field, less the headers, which nobody reads
here and which would double the time.
"""

from __future__ import annotations

from message_package import build_messages

ROS_DRIVERS = {
    'AudioData': 'uint8[] data',
    'AudioInfo': """
        uint8 channels
        uint32 sample_rate
        string sample_format
        uint32 bitrate
        string coding_format""",
}
MGONZS13 = {
    'AudioData': """
        float32[] float32_data
        int32[] int32_data
        int16[] int16_data
        int8[] int8_data
        uint8[] uint8_data""",
    'AudioInfo': """
        int32 format
        int32 channels
        int32 rate
        int32 chunk""",
    'Audio': """
        audio_common_msgs/AudioData audio_data
        audio_common_msgs/AudioInfo info""",
    'AudioStamped': 'audio_common_msgs/Audio audio',
}


def build(messages: dict[str, str]) -> dict[str, str]:
    """Build and install a package with these messages; return the environment that has it."""
    return build_messages('audio_common_msgs', messages)
