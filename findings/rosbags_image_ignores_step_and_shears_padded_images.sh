#!/usr/bin/env bash
# rosbags-image 0.10.0: sensor_msgs/Image.step, the length of a row in bytes, is ignored. Drivers pad
# rows (to 4, 16 or 64 bytes); each row of such an image then begins where the one before it ended,
# so the picture is sheared, and nothing says so.
# Seen: rows of 30 bytes padded to 32: the first row reads 0 1 2 …, the second 0 0 0 1 2 3 (two bytes
# of padding first) where 0 1 2 3 4 5 was sent.
# Matters to: whoever reads a camera's bag with message_to_cvimage.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q rosbags==0.11.9 rosbags-image==0.10.0 numpy==2.4.6 \
    opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from rosbags.image import message_to_cvimage
from rosbags.typesys import get_typestore, Stores

types = get_typestore(Stores.ROS2_JAZZY).types
header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](0, 0), 'camera')
height, width, step = 8, 10, 32
rows = np.zeros((height, step), np.uint8)
rows[:, : 3 * width] = np.arange(3 * width)
image = types['sensor_msgs/msg/Image'](header, height, width, 'rgb8', 0, step, rows.reshape(-1))
picture = message_to_cvimage(image)
first, second = picture[0].reshape(-1)[:6].tolist(), picture[1].reshape(-1)[:6].tolist()
print('first row', first, 'second row', second)
assert first == [0, 1, 2, 3, 4, 5]
assert second == [0, 0, 0, 1, 2, 3]
PYTHON
echo 'as seen'
