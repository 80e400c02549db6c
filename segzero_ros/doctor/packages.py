"""Which Python this is, which extras it has, whether NumPy, OpenCV and ROS 2 fit together.

What may crash for being compiled against another NumPy is tried in a process of its own.
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

_PATIENCE = 60.0
# Arrays of NumPy go through each and have to come out the same.
_OPENCV = """
import cv2, numpy
picture = numpy.arange(48, dtype=numpy.uint8).reshape(4, 4, 3)
assert (cv2.flip(cv2.flip(picture, 1), 1) == picture).all(), 'it spoils pictures'
print(cv2.__version__, cv2.__file__)
"""
_MESSAGES = """
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo
info = CameraInfo(k=[float(number) for number in range(9)])
back = deserialize_message(serialize_message(info), CameraInfo)
assert list(back.k) == list(info.k), 'they spoil numbers'
print('they hold what is put into them')
"""
_CV_BRIDGE = """
import cv_bridge, numpy
picture = numpy.arange(48, dtype=numpy.uint8).reshape(4, 4, 3)
bridge = cv_bridge.CvBridge()
back = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(picture, 'bgr8'), 'rgb8')
assert (back == picture[..., ::-1]).all(), 'it spoils pictures'
print('it fits')
"""


def look_at_packages() -> Iterator[Check]:
    """Yield what there is to say of Python and of what is installed for it."""
    yield _python()
    yield _numpy()
    yield _tried('OpenCV', _OPENCV)
    if find_spec('rclpy') and find_spec('sensor_msgs'):
        yield _tried("ROS 2's messages", _MESSAGES)
    if find_spec('cv_bridge'):
        yield _tried('cv_bridge', _CV_BRIDGE)
    for extra, names in EXTRAS.items():
        yield _extra(extra, names)


def _python() -> Check:
    said = f'{platform.python_version()} in {sys.prefix}, on {platform.platform(terse=True)}'
    active = os.environ.get('VIRTUAL_ENV')
    if active and Path(active).resolve() != Path(sys.prefix).resolve():
        cure = f'Activate it anew (. {active}/bin/activate) after everything else is sourced.'
        return warn('Python', f'{said}; the environment {active} is active and not used', cure)
    return ok('Python', said)


def _numpy() -> Check:
    """Compare the NumPy that is used with the one of the system, which ROS was compiled for."""
    used, *hidden = [found.version for found in metadata.distributions(name='numpy')] or ['none']
    said = f'{used} is used'
    for version in hidden:
        if version.partition('.')[0] != used.partition('.')[0]:
            return fail(
                'NumPy',
                f'{said}, and it hides {version}, which ROS 2 and its OpenCV were compiled for',
                f'{install_command("models")} brings one that fits.',
            )
    return ok('NumPy', said)


def _tried(what: str, code: str) -> Check:
    """Run code that ends with an error, or in a crash, where something does not fit."""
    try:
        done = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return warn(what, f'did not answer within {_PATIENCE:g} s')
    if done.returncode == 0:
        return ok(what, done.stdout.strip().splitlines()[-1])
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    reason = lines[-1] if lines else f'the process ended with {done.returncode}'
    cure = (
        f'{install_command("models")} makes an environment whose NumPy and OpenCV fit ROS 2; '
        'activate it after ROS 2 and the workspace are sourced.'
    )
    return fail(what, f'does not work with this NumPy: {reason}', cure)


def _extra(extra: str, names: tuple[str, ...]) -> Check:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        said = f'not installed ({", ".join(missing)}); if wanted: {install_command(extra)}'
        return ok(f'extra {extra}', said)
    return ok(f'extra {extra}', 'installed')
