"""A camera that looks at photographs, pictures in a folder, generated scenes or a bag.

    ros2 run segzero_ros camera_sim --ros-args -r __ns:=/camera -p item:=coffee
    ros2 param set /camera/camera_sim item astronaut

publishes `image` (and `image/compressed` when asked), `depth` and `camera_info` with one stamp,
and the camera's frame on `/tf_static`, as a depth camera's driver does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rclpy.utilities import try_shutdown
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from segzero_ros.config import Spec, Takes
from segzero_ros.replay.bags_extra import require_bags
from segzero_ros.ros.camera_sim.messages import (
    camera_info_message,
    compressed_message,
    depth_message,
    ENCODINGS,
    image_message,
)
from segzero_ros.ros.camera_sim.schedule import Schedule
from segzero_ros.ros.camera_sim.sources import open_source, Scenes, Shown
from segzero_ros.ros.camera_sim.transform import CameraTransform
from segzero_ros.ros.parameters import declare
from segzero_ros.types import Frame, SegZeroError

NANO = 1_000_000_000
_DEPTH = 5
_CLOCK_DEPTH = 10
# As `ros2 bag play --clock 100`, in seconds.
_CLOCK_PERIOD = 0.01

SPECS = (
    Spec(
        'source',
        'photograph',
        'What the camera looks at; setting it alone goes to its first item.',
        Takes.AT_ONCE,
        choices=('photograph', 'folder', 'scene', 'bag'),
    ),
    Spec(
        'item',
        '',
        'Which of them: a name of a photograph, a file in the folder, scene_7 for the '
        'scene of seed 7, an image topic of the bag. Empty: the first.',
        Takes.AT_ONCE,
    ),
    Spec('path', '', 'The folder, or the bag.', Takes.AT_ONCE),
    Spec(
        'item_period',
        0.0,
        'Seconds until the camera looks at the next item; 0: it stays.',
        Takes.AT_ONCE,
        minimum=0,
        maximum=86400,
    ),
    Spec(
        'rate',
        10.0,
        'Pictures per second; a bag keeps its own pace.',
        Takes.AT_ONCE,
        minimum=0.1,
        maximum=240,
    ),
    Spec(
        'motion',
        0.0,
        'Seconds for which things slide and the camera sways in a generated scene, to and fro; 0: '
        'nothing moves. The first time, making the pictures may take longer than showing them.',
        Takes.AT_ONCE,
        minimum=0,
        maximum=60,
    ),
    Spec('loop', True, 'Whether a bag starts again when it is through.', Takes.AT_ONCE),
    Spec(
        'stamps',
        'now',
        'Stamps of a bag: of the moment it is shown, or as recorded, with the time of the bag on '
        '/clock for nodes with use_sim_time.',
        Takes.AT_ONCE,
        choices=('now', 'recorded'),
    ),
    Spec('encoding', 'rgb8', "The images' encoding.", Takes.AT_ONCE, choices=ENCODINGS),
    Spec(
        'compression',
        '',
        'Publish on image/compressed too, as jpeg or png.',
        Takes.AT_ONCE,
        choices=('', 'jpeg', 'png'),
    ),
    Spec(
        'depth_encoding',
        '16UC1',
        "The depth images' encoding: millimetres or metres; none: no depth.",
        Takes.AT_ONCE,
        choices=('16UC1', '32FC1', 'none'),
    ),
    Spec(
        'frame_id',
        'camera_color_optical_frame',
        "The optical frame that the images are stamped with; a bag's keep their own.",
        Takes.AT_ONCE,
    ),
    Spec(
        'parent_frame',
        'camera_link',
        'The frame that the optical frame is put into on /tf_static, looking along its x; empty: '
        'nothing is published there.',
        Takes.AT_ONCE,
    ),
    Spec(
        'reliability',
        'reliable',
        'What the publishers offer.',
        Takes.AT_START,
        choices=('reliable', 'best_effort'),
    ),
)
_BY_NAME = {spec.name: spec for spec in SPECS}


@dataclass(frozen=True)
class Settings:
    """The parameters' values."""

    source: str
    item: str
    path: str
    item_period: float
    rate: float
    motion: float
    loop: bool
    stamps: str
    encoding: str
    compression: str
    depth_encoding: str
    frame_id: str
    parent_frame: str
    reliability: str


class Playback(Protocol):
    """What the camera shows, one after the other.

    Attributes:
        catch_up_ns: how late messages may be for those that were missed to be made up for.
    """

    catch_up_ns: int

    def next(self, now: Time) -> tuple[list[Shown], int | None]:
        """Return what is published now, and after how many ns the next is due; None: never."""
        ...

    def clock(self, now: Time) -> Time | None:
        """Return the recorded time that it is, for /clock; None where the machine's holds."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


class ImagePlayback:
    """Pictures that stand still, each for a while, each time with a new stamp."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.catch_up_ns = round(NANO / settings.rate)
        self._source = open_source(settings.source, settings.path)
        self._item = settings.item or self._source.items()[0]
        self._since: Time | None = None
        self._messages = self._make()

    def clock(self, now: Time) -> None:
        """Have no time of its own."""

    def close(self) -> None:
        """Do nothing: no file is open."""

    def next(self, now: Time) -> tuple[list[Shown], int | None]:
        """Return the picture's messages with this stamp, and the time between two pictures."""
        self._since = self._since or now
        period = self._settings.item_period
        if period and (now - self._since).nanoseconds >= period * NANO:
            self._go_on()
            self._since = now
        return stamped(self._messages, now), round(NANO / self._settings.rate)

    def _go_on(self) -> None:
        items = self._source.items()
        index = items.index(self._item) + 1 if self._item in items else 0
        self._item = items[index % len(items)]
        self._messages = self._make()

    def _make(self) -> list[Shown]:
        """Make the picture's messages once; only their stamps change from time to time."""
        return messages_of(self._source.frame(self._item), self._settings)


class ScenePlayback:
    """A generated scene in motion, to and fro."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.catch_up_ns = round(NANO / settings.rate)
        scenes = Scenes()
        item = settings.item or scenes.items()[0]
        self._count = max(2, round(settings.motion * settings.rate))
        self._coming = scenes.film(item, self._count, settings.rate)
        self._made: list[list[Shown]] = []
        self._ticks = 0

    def clock(self, now: Time) -> None:
        """Have no time of its own."""

    def close(self) -> None:
        """Do nothing: no file is open."""

    def next(self, now: Time) -> tuple[list[Shown], int | None]:
        """Return the messages of the film's next picture, made when it is shown first."""
        last = self._count - 1
        index = last - abs(last - self._ticks % (2 * last))
        self._ticks += 1
        if index == len(self._made):
            self._made.append(messages_of(next(self._coming), self._settings))
        return stamped(self._made[index], now), round(NANO / self._settings.rate)


def messages_of(frame: Frame, settings: Settings) -> list[Shown]:
    """Return what a camera publishes of a frame, not stamped yet."""
    header = Header(frame_id=settings.frame_id)
    made: list[Shown] = []
    if frame.intrinsics is not None:
        made.append(('camera_info', camera_info_message(frame.intrinsics, header)))
    if frame.depth is not None and settings.depth_encoding != 'none':
        made.append(('depth', depth_message(frame.depth, settings.depth_encoding, header)))
    if settings.compression:
        message = compressed_message(frame.image, settings.compression, header)
        made.append(('image/compressed', message))
    # The picture last: with it, all that belongs to it is there.
    made.append(('image', image_message(frame.image, settings.encoding, header)))
    return made


def stamped(messages: list[Shown], now: Time) -> list[Shown]:
    """Return the messages with one stamp."""
    stamp = now.to_msg()
    for _, message in messages:
        message.header.stamp = stamp
    return messages


def open_playback(settings: Settings) -> Playback:
    """Return what the settings name; raise SegZeroError if it cannot be had."""
    if settings.source == 'bag':
        recorded = settings.stamps == 'recorded'
        path = Path(settings.path).expanduser()
        with require_bags():
            from segzero_ros.ros.camera_sim.bag_playback import BagPlayback
        return BagPlayback(path, settings.item, loop=settings.loop, recorded=recorded)
    if settings.source == 'scene' and settings.motion:
        return ScenePlayback(settings)
    return ImagePlayback(settings)


class CameraSim(Node):
    """Publishes what a camera does; every parameter but the QoS can be set while it runs.

    Args:
        options: as rclpy's Node takes them.

    Raises:
        SegZeroError: a parameter cannot be what it was given, or there is nothing to look at.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('camera_sim', **options)
        for warning in declare(self, SPECS):
            self.get_logger().warning(warning)
        settings = self._settings([])
        self._playback = open_playback(settings)
        self._schedule = Schedule(self._playback.catch_up_ns)
        self._next_reel: Playback | None = None
        self._transform = CameraTransform(self)
        reliability = ReliabilityPolicy[settings.reliability.upper()]
        qos = QoSProfile(depth=_DEPTH, reliability=reliability)
        self._publishers = {
            name: self.create_publisher(kind, name, qos)
            for name, kind in (
                ('image', Image),
                ('image/compressed', CompressedImage),
                ('depth', Image),
                ('camera_info', CameraInfo),
            )
        }
        # Nobody else's clock: made when there is something to say on it.
        self._clock_outlet: Publisher | None = None
        self.create_timer(_CLOCK_PERIOD, self._publish_clock)
        self._timer = self.create_timer(0.0, self._tick)
        self.add_pre_set_parameters_callback(_complete)
        self.add_on_set_parameters_callback(self._check)
        self.add_post_set_parameters_callback(self._change)

    def finish(self) -> None:
        """Close the files and leave the graph."""
        self._playback.close()
        self.destroy_node()

    def _settings(self, changes: list[Parameter]) -> Settings:
        """Return the settings with some parameters changed; raise ParameterError where wrong."""
        values = {name: self.get_parameter(name).value for name in _BY_NAME}
        values.update({p.name: p.value for p in changes if p.name in _BY_NAME})
        checked: dict[str, Any] = {
            name: _BY_NAME[name].read(value) for name, value in values.items()
        }
        return Settings(**checked)

    def _check(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            self._next_reel = open_playback(self._settings(changes))
        except SegZeroError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _change(self, _: list[Parameter]) -> None:
        if self._next_reel is not None:
            self._playback.close()
            self._playback, self._next_reel = self._next_reel, None
            self._schedule = Schedule(self._playback.catch_up_ns)
            self._wait(0)

    def _tick(self) -> None:
        now = self.get_clock().now()
        self._schedule.start(now.nanoseconds)
        try:
            shown, period_ns = self._playback.next(now)
        except SegZeroError as error:
            self.get_logger().error(str(error))
            period_ns, shown = None, []
        if shown:
            self._publish_clock()
        parent = self.get_parameter('parent_frame').value
        for topic, message in shown:
            self._transform.place(message.header.frame_id, parent)
            self._publishers[topic].publish(message)
        if period_ns is None:
            self.get_logger().info('There is nothing more to show.')
            self._timer.cancel()
        else:
            self._wait(self._schedule.wait(self.get_clock().now().nanoseconds, period_ns))

    def _publish_clock(self) -> None:
        """Say on /clock what time it is in the bag, where its stamps stay."""
        time = self._playback.clock(self.get_clock().now())
        if time is None:
            return
        if self._clock_outlet is None:
            self._clock_outlet = self.create_publisher(Clock, '/clock', _CLOCK_DEPTH)
        self._clock_outlet.publish(Clock(clock=time.to_msg()))

    def _wait(self, delay_ns: int) -> None:
        self._timer.timer_period_ns = delay_ns
        self._timer.reset()


def _complete(changes: list[Parameter]) -> list[Parameter]:
    """Go to the first item of a new source, and read whole numbers where a number is due."""
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
    """Run the camera until Ctrl-C; return 1 after saying why there is nothing to look at."""
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
