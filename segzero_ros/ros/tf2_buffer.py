"""tf2's own buffer of transforms, where the distribution has it (ros-<distribution>-tf2-py)."""

from __future__ import annotations

from types import SimpleNamespace

from geometry_msgs.msg import Quaternion, Vector3
from rclpy.duration import Duration
from rclpy.time import Time
from tf2_py import BufferCore, ExtrapolationException, TransformException

from segzero_ros.spatial.transform_buffer import KEEP_NS, NoTransform
from segzero_ros.spatial.transforms import StampedTransform, Transform
from segzero_ros.types import S_TO_NS

_AUTHORITY = 'segzero_ros'


class Tf2Buffer:
    """The same interface as `spatial.transform_buffer.TransformBuffer`, by tf2_py.BufferCore."""

    def __init__(self) -> None:
        self._core = BufferCore(Duration(nanoseconds=KEEP_NS))

    def add(self, stamped: StampedTransform, *, static: bool) -> None:
        """Store a transform; one that tf2 would refuse is left out, for it reports each.

        Args:
            stamped: the transform.
            static: whether it holds at all times, as those on /tf_static.
        """
        if not stamped.is_valid:
            return
        x, y, z = stamped.transform.translation
        qx, qy, qz, qw = stamped.transform.rotation
        seconds, nanoseconds = divmod(stamped.stamp_ns, S_TO_NS)
        # tf2_py reads attributes; it checks the types of these two only.
        message = SimpleNamespace(
            header=SimpleNamespace(
                stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds), frame_id=stamped.parent
            ),
            child_frame_id=stamped.child,
            transform=SimpleNamespace(
                translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)
            ),
        )
        store = self._core.set_transform_static if static else self._core.set_transform
        store(message, _AUTHORITY)

    def clear(self) -> None:
        """Forget all but the static transforms, because the time has jumped back."""
        self._core.clear()

    def look_up(self, target: str, source: str, stamp_ns: int) -> Transform:
        """Return the transform of points in the source frame into the target frame.

        Args:
            target: frame to transform into.
            source: frame to transform from.
            stamp_ns: time, nanoseconds; 0 for the newest at which all transforms are known.

        Raises:
            NoTransform: as tf2 reports it.
        """
        try:
            found = self._core.lookup_transform_core(target, source, Time(nanoseconds=stamp_ns))
        except TransformException as error:
            reason = str(error).rstrip('.').replace('.  ', ', ')
            late = isinstance(error, ExtrapolationException) and 'past' not in reason
            raise NoTransform(reason, late=late) from error
        shift, turn = found.transform.translation, found.transform.rotation
        return Transform((shift.x, shift.y, shift.z), (turn.x, turn.y, turn.z, turn.w))
