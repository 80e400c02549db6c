#!/usr/bin/env bash
# rosbags-image 0.10.0: of a depth image as image_transport's compressedDepth publishes it (a header
# of 12 bytes, then a PNG of 16 bits) message_to_cvimage returns None, without an error. The PNG alone,
# as the transport `compressed` publishes depth, comes back with 8 bits: the low byte is gone.
# Seen for 1234 mm: '16UC1; compressedDepth png' None; '16UC1; png compressed' (8, 10) uint8 4.
# Matters to: whoever reads depth from a bag that was recorded compressed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q rosbags==0.11.9 rosbags-image==0.10.0 numpy==2.4.6 \
    opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" - <<'PYTHON'
import struct

import cv2
import numpy as np
from rosbags.image import message_to_cvimage
from rosbags.typesys import get_typestore, Stores

types = get_typestore(Stores.ROS2_JAZZY).types
header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](0, 0), 'camera')
png = cv2.imencode('.png', np.full((8, 10), 1234, np.uint16))[1].tobytes()
# What the plugin writes before the PNG: a format number and the two parameters of 32FC1.
transported = struct.pack('<iff', 0, 0.0, 0.0) + png


def decoded(form, data):
    message = types['sensor_msgs/msg/CompressedImage'](header, form, np.frombuffer(data, np.uint8))
    image = message_to_cvimage(message)
    return None if image is None else (image.shape, str(image.dtype), int(image[0, 0]))


depth, plain = decoded('16UC1; compressedDepth png', transported), decoded('16UC1; png compressed', png)
print('compressedDepth:', depth, 'compressed:', plain)
assert depth is None
assert plain == ((8, 10), 'uint8', 4)
PYTHON
echo 'as seen'
