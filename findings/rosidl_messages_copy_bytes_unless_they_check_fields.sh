#!/usr/bin/env bash
# ros-jazzy-sensor-msgs 5.3.6 (Python classes of rosidl): a message copies the bytes that it is given
# even if they are an array.array of the right type, twice in the constructor and once more when the
# field is set. The quick way, which keeps the array as it is, is taken by messages that check their
# fields, and checking is switched off unless it is asked for: what makes everything else quicker makes
# images and clouds slower. `check_fields=True`, then setting `data`, copies nothing.
# Seen: data=… and .data=… give another array; with check_fields=True and .data=… it is the same one.
# 18 MB (a cloud of 1280x720 points): some 20 ms in the constructor, none the other way.
# Matters to: whoever publishes images or clouds from Python.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv" 2>/dev/null || python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ros-jazzy-common-interfaces==5.3.6 ros-jazzy-rclpy==7.1.6 'numpy<3'
"$folder/venv/bin/python" - <<'PYTHON'
from array import array
import time

from sensor_msgs.msg import Image

data = array('B', bytes(18_432_000))
started = time.perf_counter()
constructed = Image(data=data)
between = time.perf_counter()
quick = Image(check_fields=True)
quick.data = data
ended = time.perf_counter()
print(f'constructor {1000 * (between - started):.1f} ms, check_fields {1000 * (ended - between):.1f} ms')
plain = Image()
plain.data = data
assert constructed.data == plain.data == data
assert constructed.data is not data
assert plain.data is not data
assert quick.data is data
assert between - started > 10 * (ended - between)
PYTHON
echo 'as seen'
