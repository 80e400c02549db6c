"""Check Python, the installed extras, and whether NumPy, OpenCV and ROS 2 are compatible.

Libraries that may crash if they were compiled for another NumPy run in a separate process.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
import os
from pathlib import Path
import platform
import subprocess
import sys

from segzero_ros.doctor.checks import Check, fail, ok, warn
from segzero_ros.extras import EXTRAS, install_command

_TIMEOUT = 60.0
# NumPy arrays must be unchanged after a round trip through each library.
_OPENCV = """
import cv2, numpy
image = numpy.arange(48, dtype=numpy.uint8).reshape(4, 4, 3)
assert (cv2.flip(cv2.flip(image, 1), 1) == image).all(), 'it corrupts images'
print(cv2.__version__, cv2.__file__)
"""
_MESSAGES = """
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo
info = CameraInfo(k=[float(number) for number in range(9)])
back = deserialize_message(serialize_message(info), CameraInfo)
assert list(back.k) == list(info.k), 'they corrupt numbers'
print('working')
"""
_CV_BRIDGE = """
import cv_bridge, numpy
image = numpy.arange(48, dtype=numpy.uint8).reshape(4, 4, 3)
bridge = cv_bridge.CvBridge()
back = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(image, 'bgr8'), 'rgb8')
assert (back == image[..., ::-1]).all(), 'it corrupts images'
print('working')
"""


def check_packages() -> Iterator[Check]:
    """Yield the checks of Python and the installed packages."""
    yield _python()
    yield _numpy()
    yield _run_check('OpenCV', _OPENCV)
    if find_spec('rclpy') and find_spec('sensor_msgs'):
        yield _run_check("ROS 2's messages", _MESSAGES)
    if find_spec('cv_bridge'):
        yield _run_check('cv_bridge', _CV_BRIDGE)
    for extra, names in EXTRAS.items():
        yield _extra(extra, names)


def _python() -> Check:
    message = f'{platform.python_version()} in {sys.prefix}, on {platform.platform(terse=True)}'
    active = os.environ.get('VIRTUAL_ENV')
    if active and Path(active).resolve() != Path(sys.prefix).resolve():
        hint = f'Activate it again (. {active}/bin/activate) after sourcing everything else.'
        return warn('Python', f'{message}; the active environment {active} is not used', hint)
    return ok('Python', message)


def _numpy() -> Check:
    """Compare the NumPy in use with the system's one, which ROS was compiled for."""
    versions = [package.version for package in metadata.distributions(name='numpy')]
    used, *hidden = versions or ['none']
    message = f'{used} is used'
    for version in hidden:
        if version.partition('.')[0] != used.partition('.')[0]:
            return fail(
                'NumPy',
                f'{message}, and hides {version}, which ROS 2 and its OpenCV were compiled for',
                f'{install_command("models")} installs a compatible one.',
            )
    return ok('NumPy', message)


def _run_check(name: str, code: str) -> Check:
    """Run code that fails or crashes if libraries are incompatible."""
    try:
        process = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return warn(name, f'did not finish within {_TIMEOUT:g} s')
    if process.returncode == 0:
        return ok(name, process.stdout.strip().splitlines()[-1])
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    reason = lines[-1] if lines else f'the process ended with {process.returncode}'
    hint = (
        f'{install_command("models")} creates an environment whose NumPy and OpenCV are '
        'compatible with ROS 2; activate it after sourcing ROS 2 and the workspace.'
    )
    return fail(name, f'does not work with this NumPy: {reason}', hint)


def _extra(extra: str, names: tuple[str, ...]) -> Check:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        message = f'not installed ({", ".join(missing)}); to install: {install_command(extra)}'
        return ok(f'extra {extra}', message)
    return ok(f'extra {extra}', 'installed')
