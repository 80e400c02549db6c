"""The node `camera_sim`: simulates a camera from photographs, a folder, generated scenes or a bag.

    ros2 run segzero_ros camera_sim --ros-args -r __ns:=/camera -p item:=coffee
    ros2 param set /camera/camera_sim item astronaut

publishes `image` (and `image/compressed` when asked), `depth` and `camera_info` with one stamp,
and the camera's frame on `/tf_static`, as the driver of a depth camera does.
"""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import try_shutdown
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.parameter_table import Spec, Takes
from segzero_ros.ros.camera_sim.messages import ENCODINGS
from segzero_ros.ros.camera_sim.playback import open_playback, Playback, Settings
from segzero_ros.ros.camera_sim.schedule import Schedule
from segzero_ros.ros.camera_sim.transform import CameraTransform
from segzero_ros.ros.parameters import declare
from segzero_ros.types import SegZeroError

# Queue depths: of images as in sensor_data, of /clock as for a reliable topic by default.
_DEPTH = 5
_CLOCK_DEPTH = 10
# Period of /clock, seconds; as with `ros2 bag play --clock 100`.
_CLOCK_PERIOD = 0.01

SPECS = (
    Spec(
        'source',
        'photograph',
        'Source of the images; setting it alone selects its first item.',
        Takes.AT_ONCE,
        choices=('photograph', 'folder', 'scene', 'bag'),
    ),
    Spec(
        'item',
        '',
        'Item of the source: the name of a photograph, a file in the folder, scene_7 for the '
        'scene of seed 7, or an image topic of the bag. Empty: the first.',
        Takes.AT_ONCE,
    ),
    Spec('path', '', 'Path of the folder or the bag.', Takes.AT_ONCE),
    Spec(
        'item_period',
        0.0,
        'Seconds until the next item is selected; 0: never.',
        Takes.AT_ONCE,
        minimum=0,
        maximum=86400,
    ),
    Spec(
        'rate',
        10.0,
        'Images per second; a bag is played at its recorded rate.',
        Takes.AT_ONCE,
        minimum=0.1,
        maximum=240,
    ),
    Spec(
        'motion',
        0.0,
        'Seconds of motion in a generated scene, played forwards and backwards: objects slide and '
        'the camera sways. 0: no motion. In the first pass, rendering may lower the rate.',
        Takes.AT_ONCE,
        minimum=0,
        maximum=60,
    ),
    Spec('loop', True, 'Whether a bag is played in a loop.', Takes.AT_ONCE),
    Spec(
        'stamps',
        'now',
        'Stamps of a bag: the time of publication, or as recorded, with the recorded time on '
        '/clock for nodes with use_sim_time.',
        Takes.AT_ONCE,
        choices=('now', 'recorded'),
    ),
    Spec('encoding', 'rgb8', 'Encoding of the images.', Takes.AT_ONCE, choices=ENCODINGS),
    Spec(
        'compression',
        '',
        'Also publish on image/compressed, as jpeg or png.',
        Takes.AT_ONCE,
        choices=('', 'jpeg', 'png'),
    ),
    Spec(
        'depth_encoding',
        '16UC1',
        'Encoding of the depth images: millimetres or metres; none: no depth.',
        Takes.AT_ONCE,
        choices=('16UC1', '32FC1', 'none'),
    ),
    Spec(
        'frame_id',
        'camera_color_optical_frame',
        "Optical frame in the images' headers; a bag's images keep theirs.",
        Takes.AT_ONCE,
    ),
    Spec(
        'parent_frame',
        'camera_link',
        "Parent of the optical frame on /tf_static, with the view along the parent's x axis; "
        'empty: no transform is published.',
        Takes.AT_ONCE,
    ),
    Spec(
        'reliability',
        'reliable',
        'Reliability of the publishers.',
        Takes.AT_START,
        choices=('reliable', 'best_effort'),
    ),
)
_BY_NAME = {spec.name: spec for spec in SPECS}


class CameraSim(Node):
    """Publishes as a camera driver; all parameters but the QoS can be set while it runs.

    Args:
        options: of rclpy's Node.

    Raises:
        SegZeroError: a parameter has an invalid value, or the source is not available.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('camera_sim', **options)
        for warning in declare(self, SPECS):
            self.get_logger().warning(warning)
        settings = self._settings([])
        self._playback = open_playback(settings)
        self._schedule = Schedule(self._playback.max_delay_ns)
        self._next_playback: Playback | None = None
        self._transform = CameraTransform(self)
        reliability = ReliabilityPolicy[settings.reliability.upper()]
        qos = QoSProfile(depth=_DEPTH, reliability=reliability)
        self._topic_publishers = {
            name: self.create_publisher(kind, name, qos)
            for name, kind in (
                ('image', Image),
                ('image/compressed', CompressedImage),
                ('depth', Image),
                ('camera_info', CameraInfo),
            )
        }
        # Created on first use, so that the node does not appear as a publisher of /clock before.
        self._clock_publisher: Publisher | None = None
        self.create_timer(_CLOCK_PERIOD, self._publish_clock)
        self._timer = self.create_timer(0.0, self._tick)
        self.add_pre_set_parameters_callback(_complete_parameters)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)

    def finish(self) -> None:
        """Close the files and leave the graph."""
        self._playback.close()
        self.destroy_node()

    def _settings(self, changes: list[Parameter]) -> Settings:
        """Return the settings after some changes; raise ParameterError for an invalid value."""
        values = {name: self.get_parameter(name).value for name in _BY_NAME}
        values.update({p.name: p.value for p in changes if p.name in _BY_NAME})
        checked: dict[str, Any] = {
            name: _BY_NAME[name].read(value) for name, value in values.items()
        }
        return Settings(**checked)

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            self._next_playback = open_playback(self._settings(changes))
        except SegZeroError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, _: list[Parameter]) -> None:
        if self._next_playback is not None:
            self._playback.close()
            self._playback, self._next_playback = self._next_playback, None
            self._schedule = Schedule(self._playback.max_delay_ns)
            self._restart_timer(0)

    def _tick(self) -> None:
        now = self.get_clock().now()
        self._schedule.start(now.nanoseconds)
        try:
            messages, period_ns = self._playback.next(now)
        except SegZeroError as error:
            self.get_logger().error(str(error))
            period_ns, messages = None, []
        if messages:
            self._publish_clock()
        parent = self.get_parameter('parent_frame').value
        for topic, message in messages:
            self._transform.publish(message.header.frame_id, parent)
            self._topic_publishers[topic].publish(message)
        if period_ns is None:
            self.get_logger().info('The playback has ended.')
            self._timer.cancel()
        else:
            self._restart_timer(
                self._schedule.delay(self.get_clock().now().nanoseconds, period_ns)
            )

    def _publish_clock(self) -> None:
        """Publish the recorded time on /clock, if the bag is played with recorded stamps."""
        time = self._playback.clock(self.get_clock().now())
        if time is None:
            return
        if self._clock_publisher is None:
            self._clock_publisher = self.create_publisher(Clock, '/clock', _CLOCK_DEPTH)
        self._clock_publisher.publish(Clock(clock=time.to_msg()))

    def _restart_timer(self, delay_ns: int) -> None:
        self._timer.timer_period_ns = delay_ns
        self._timer.reset()


def _complete_parameters(changes: list[Parameter]) -> list[Parameter]:
    """Select the first item of a new source, and convert integers to floating point."""
    changes = [
        Parameter(change.name, value=float(change.value))
        if type(change.value) is int and change.name in ('rate', 'item_period', 'motion')
        else change
        for change in changes
    ]
    names = {change.name for change in changes}
    if names & {'source', 'path'} and 'item' not in names:
        return [*changes, Parameter('item', value='')]
    return changes


def main(args: list[str] | None = None) -> int:
    """Run the node until Ctrl-C; return 1 after an error at start-up."""
    try:
        rclpy.init(args=args)
        node = CameraSim()
    except (SegZeroError, InvalidParameterTypeException, RuntimeError) as error:
        rclpy.logging.get_logger('camera_sim').fatal(str(error))
        try_shutdown()
        return 1
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.finish()
        try_shutdown()
    return 0
