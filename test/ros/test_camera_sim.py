"""The simulated camera publishes what a depth camera's driver does, from each of its sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from segzero_ros.conversions.camera_info import intrinsics_from
from segzero_ros.conversions.depth import decode_depth
from segzero_ros.conversions.image import decode_image
from segzero_ros.replay.bag import BagWriter
from segzero_ros.ros.camera_sim.messages import (
    camera_info_message,
    depth_message,
    image_message,
)
from segzero_ros.ros.camera_sim.sources import (
    CameraError,
    ImageFolder,
    motorcycle,
    open_source,
    Photographs,
)
from segzero_ros.simulation import make_motion, make_scene
from segzero_ros.types import Intrinsics

SCRIPT = Path(__file__).resolve().parents[2] / 'scripts' / 'camera_sim'
pytest.importorskip('skimage', reason='the photographs come with scikit-image')
from skimage import data as photographs

Start = Callable[..., Any]


def ns(message: Any) -> int:
    return int(Time.from_msg(message.header.stamp).nanoseconds)


class Watcher:
    """A camera process and what it publishes."""

    def __init__(self, process: Any, client: Any) -> None:
        self.process = process
        self.client = client
        self.images = client.listen(Image, 'image', 100)
        self.depths = client.listen(Image, 'depth', 100)
        self.infos = client.listen(CameraInfo, 'camera_info', 100)

    def set(self, **values: Any) -> None:
        """Set parameters one after the other; each has to be taken."""
        for name, value in values.items():
            assert self.client.set_parameter(name, value) == (True, '')
        self.forget()

    def forget(self) -> None:
        for inbox in (self.images, self.depths, self.infos):
            inbox.forget()

    def image_like(self, shape: tuple[int, ...], encoding: str = 'rgb8') -> Any:
        """Return an image of this kind; what belongs to it came after the inboxes were emptied."""
        return self.images.wait_for_count(
            2,
            lambda image: (image.height, image.width) == shape[:2] and image.encoding == encoding,
        )[1]


def together(camera: Watcher, *inboxes: Any) -> list[Any]:
    """Return messages of one stamp, one from each inbox; on a busy machine some get lost."""

    def common() -> list[Any] | None:
        by_stamp = [{ns(message): message for message in list(inbox)} for inbox in inboxes]
        shared = set.intersection(*map(set, by_stamp))
        return [messages[max(shared)] for messages in by_stamp] if shared else None

    found: list[Any] = camera.client.until(common, 'messages of one stamp')
    return found


@pytest.fixture(scope='module')
def camera(node_process: Start, new_client: Start) -> Watcher:
    process = node_process(
        {'item': 'coffee', 'rate': 20}, script=SCRIPT, arguments=['-r', '__ns:=/camera']
    )
    return Watcher(process, new_client('camera', 'camera_sim'))


@pytest.fixture(autouse=True)
def on_coffee(request: pytest.FixtureRequest) -> None:
    """Leave the shared camera as it was started."""
    if 'camera' in request.fixturenames:
        camera = request.getfixturevalue('camera')
        camera.images.wait_for()
        camera.set(source='photograph', encoding='rgb8', depth_encoding='16UC1', item_period=0)


def test_a_photograph_comes_pixel_by_pixel_with_new_stamps_at_the_rate(camera: Watcher) -> None:
    first, *_, last = camera.images.wait_for_count(11)
    assert np.array_equal(decode_image(last), photographs.coffee())
    assert last.header.frame_id == 'camera_color_optical_frame'
    assert 0.3 < (ns(last) - ns(first)) * 1e-9 * 20 / 10 < 3
    assert not camera.depths


def test_image_depth_and_camera_info_have_one_stamp(camera: Watcher) -> None:
    camera.set(item='stereo_motorcycle')
    camera.image_like((500, 741))
    image, depth, info = together(camera, camera.images, camera.depths, camera.infos)
    assert depth.encoding == '16UC1'
    assert {message.header.frame_id for message in (image, depth, info)} == {
        'camera_color_optical_frame'
    }
    assert (info.width, info.height) == (741, 500)
    assert intrinsics_from(info) == Intrinsics(
        994.978, 994.978, 311.193, 254.877, 741, 500, tuple(info.d)
    )


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1'])
def test_the_motorcycle_has_its_measured_depth(camera: Watcher, encoding: str) -> None:
    camera.set(item='stereo_motorcycle', depth_encoding=encoding)
    message = camera.depths.wait_for(lambda depth: depth.encoding == encoding)
    depth = decode_depth(message)
    disparity = photographs.stereo_motorcycle()[2]
    known = np.isfinite(disparity)
    assert np.array_equal(np.isfinite(depth), known)
    truth = 994.978 * 0.193001 / (disparity[known] + 31.086)
    assert np.abs(depth[known] - truth).max() < 0.00051
    # The motorcycle stands between two and three metres away, the back wall further.
    assert 2.0 < np.nanmin(depth) < np.nanmax(depth) < 5.1


def test_depth_can_be_left_out(camera: Watcher) -> None:
    camera.set(item='stereo_motorcycle', depth_encoding='none')
    image = camera.image_like((500, 741))
    camera.images.wait_for_count(4, lambda message: ns(message) > ns(image))
    assert not [depth for depth in camera.depths if ns(depth) >= ns(image)]


@pytest.mark.parametrize('encoding', ['bgr8', 'rgba8', 'bgra8', 'mono8', 'mono16', 'bayer_rggb8'])
def test_each_encoding_is_read_back_as_the_photograph(camera: Watcher, encoding: str) -> None:
    camera.set(encoding=encoding)
    seen = decode_image(camera.image_like((400, 600), encoding))
    truth = photographs.coffee()
    if encoding.startswith('mono'):
        truth = np.repeat(cv2.cvtColor(truth, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    wrong = np.abs(seen.astype(int) - truth).mean()
    assert wrong == 0 if encoding != 'bayer_rggb8' else wrong < 4


def test_the_compressed_image_comes_beside_the_raw_one_with_its_stamp(camera: Watcher) -> None:
    inbox = camera.client.listen(CompressedImage, 'image/compressed', 100)
    for compression, most_wrong in (('png', 0.0), ('jpeg', 4.0)):
        camera.set(compression=compression)
        inbox.wait_for(lambda image, kind=compression: kind in image.format)
        inbox.forget()
        message, _ = together(camera, inbox, camera.images)
        wrong = np.abs(decode_image(message).astype(int) - photographs.coffee()).mean()
        assert wrong <= most_wrong
    camera.set(compression='')


def test_the_picture_is_switched_live_and_a_wrong_one_is_refused(camera: Watcher) -> None:
    camera.set(item='astronaut')
    assert np.array_equal(decode_image(camera.image_like((512, 512))), photographs.astronaut())
    taken, reason = camera.client.set_parameter('item', 'sofa')
    assert not taken
    assert 'sofa' in reason
    assert 'coffee' in reason
    camera.forget()
    camera.image_like((512, 512))
    assert camera.client.get_parameter('item') == 'astronaut'


def test_a_generated_scene_comes_with_depth_and_camera(camera: Watcher) -> None:
    camera.set(source='scene', item='scene_7')
    camera.image_like((480, 640))
    image, depth, info = together(camera, camera.images, camera.depths, camera.infos)
    frame = make_scene(7).frame
    assert frame.depth is not None
    assert frame.intrinsics is not None
    assert np.array_equal(decode_image(image), frame.image)
    assert np.nanmax(np.abs(decode_depth(depth) - frame.depth)) < 0.00051
    assert info.k[0] == pytest.approx(frame.intrinsics.fx)
    taken, reason = camera.client.set_parameter('item', 'coffee')
    assert (taken, 'scene_7' in reason) == (False, True)


def test_a_scene_in_motion_goes_to_and_fro_with_its_depth(camera: Watcher) -> None:
    camera.set(source='scene', item='scene_7', depth_encoding='32FC1')
    camera.set(motion=0.2)
    film = [scene.frame for scene in make_motion(7, 4, rate=20)]
    indices = {frame.image.tobytes(): index for index, frame in enumerate(film)}

    def steps() -> set[int]:
        pictures = [bytes(image.data) for image in list(camera.images)]
        shown = [indices[picture] for picture in pictures if picture in indices]
        return {later - earlier for earlier, later in pairwise(shown)}

    camera.client.until(lambda: {1, -1} <= steps(), 'the film ran forwards and backwards')
    camera.client.until(lambda: len({bytes(i.data) for i in list(camera.images)}) >= 4, 'all came')
    image, depth = together(camera, camera.images, camera.depths)
    assert np.array_equal(
        decode_depth(depth), film[indices[bytes(image.data)]].depth, equal_nan=True
    )
    camera.set(motion=0)


def test_a_folder_is_shown_picture_by_picture(camera: Watcher, tmp_path: Path) -> None:
    for name, size in (('b.jpg', (40, 60)), ('a.png', (30, 50))):
        cv2.imwrite(str(tmp_path / name), np.full((*size, 3), (10, 20, 200), np.uint8))
    (tmp_path / 'notes.txt').write_text('no picture')
    camera.set(path=str(tmp_path))
    camera.set(source='folder')
    first = camera.image_like((30, 50))
    assert bytes(first.data[:3]) == bytes((200, 20, 10))
    camera.set(item_period=0.2)
    camera.image_like((40, 60))
    camera.forget()
    camera.image_like((30, 50))


def test_what_is_published_is_offered_reliable_or_best_effort(
    camera: Watcher, node_process: Start, new_client: Start
) -> None:
    other = Watcher(
        node_process(
            {'reliability': 'best_effort', 'item': 'coffee'},
            script=SCRIPT,
            arguments=['-r', '__ns:=/other'],
        ),
        new_client('other', 'camera_sim'),
    )
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    other.client.listen(Image, 'image', best_effort).wait_for()
    for watcher, expected in (
        (camera, ReliabilityPolicy.RELIABLE),
        (other, ReliabilityPolicy.BEST_EFFORT),
    ):
        node = watcher.client.node
        (offer,) = node.get_publishers_info_by_topic(node.resolve_topic_name('image'))
        assert offer.qos_profile.reliability == expected
    assert other.process.stop()[0] == 0


@pytest.mark.parametrize(
    ('parameters', 'complaint'),
    [
        ({'item': 'sofa'}, "no photograph 'sofa'"),
        ({'rate': 'fast'}, 'rate must be a number'),
        ({'use_sim_time': 'perhaps'}, 'use_sim_time'),
        ({'source': 'folder', 'path': '/nowhere'}, '/nowhere is not a folder'),
        ({'source': 'bag', 'path': '/nowhere'}, '/nowhere cannot be read as a bag'),
    ],
)
def test_a_camera_with_nothing_to_look_at_says_so_and_ends(
    node_process: Start, parameters: dict[str, Any], complaint: str
) -> None:
    process = node_process(parameters, script=SCRIPT)
    assert process.wait() == 1
    assert complaint in process.output
    assert 'Traceback' not in process.output


@pytest.mark.parametrize('arguments', [['-p', 'rate'], ['--params-file', '/nowhere.yaml']])
def test_arguments_that_ros_cannot_read_end_it_with_a_line(
    node_process: Start, arguments: list[str]
) -> None:
    process = node_process(script=SCRIPT, arguments=arguments)
    assert process.wait() == 1
    assert arguments[1] in process.output
    assert 'Traceback' not in process.output


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag of five frames, 50 ms apart, with two cameras' images, depth and camera_info."""
    path = tmp_path_factory.mktemp('bags') / 'bag'
    camera = Intrinsics(100.0, 100.0, 32.0, 24.0, 64, 48)
    with BagWriter(path) as writer:
        for topic, kind in (
            ('/left/depth', 'Image'),
            ('/left/color', 'Image'),
            ('/right/color', 'Image'),
            ('/right/camera_info', 'CameraInfo'),
            ('/left/camera_info', 'CameraInfo'),
        ):
            writer.add_topic(topic, f'sensor_msgs/msg/{kind}')
        for index in range(5):
            stamp = 1_000_000_000 + index * 50_000_000
            header = Header(stamp=Time(nanoseconds=stamp).to_msg(), frame_id='recorded')
            color = np.full((48, 64, 3), index, np.uint8)
            depth = np.full((48, 64), 1.5, np.float32)
            for offset, (topic, message) in enumerate(
                (
                    ('/left/depth', depth_message(depth, '32FC1', header)),
                    ('/left/color', image_message(color, 'bgr8', header)),
                    ('/right/color', image_message(color + 100, 'rgb8', header)),
                    ('/right/camera_info', camera_info_message(replace(camera, fx=9.0), header)),
                    ('/left/camera_info', camera_info_message(camera, header)),
                )
            ):
                writer.write(topic, serialize_message(message), stamp + offset)
    return path


def test_a_bag_is_played_in_its_own_pace_with_new_stamps(camera: Watcher, bag: Path) -> None:
    camera.set(loop=False)
    camera.set(path=str(bag))
    taken, reason = camera.client.set_parameter('source', 'bag')
    assert (taken, reason) == (True, '')
    recorded = lambda message: message.header.frame_id == 'recorded'  # noqa: E731
    images = camera.images.wait_for_count(5, recorded)
    now = camera.client.node.get_clock().now().nanoseconds
    stamps = [ns(image) for image in images]
    assert [image.data[0] for image in images] == [0, 1, 2, 3, 4]
    assert {image.encoding for image in images} == {'bgr8'}
    assert [later - earlier for earlier, later in pairwise(stamps)] == [50_000_000] * 4
    assert 0 <= now - stamps[-1] < 30e9
    depths = camera.depths.wait_for_count(5, recorded)
    infos = camera.infos.wait_for_count(5, recorded)
    assert [ns(depth) for depth in depths] == [ns(info) for info in infos] == stamps
    assert {info.k[0] for info in infos} == {100.0}
    camera.process.wait_for_output('The playback has ended')


def test_a_bag_is_looped_and_its_other_camera_can_be_chosen(camera: Watcher, bag: Path) -> None:
    camera.set(loop=True, path=str(bag), source='bag')
    camera.set(item='/right/color')
    camera.images.wait_for_count(
        11, lambda image: image.encoding == 'rgb8' and image.data[0] >= 100 and image.width == 64
    )
    taken, reason = camera.client.set_parameter('item', '/left/depth')
    assert not taken
    assert '/left/color, /right/color' in reason


def test_unknown_disparities_have_no_depth() -> None:
    disparity = np.float32([[10.0, np.inf, 0.0, np.nan]])
    frame = motorcycle(np.zeros((1, 4, 3), np.uint8), disparity)
    assert frame.depth is not None
    assert np.isfinite(frame.depth).tolist() == [[True, False, False, False]]


def test_depth_beyond_16_bits_is_unknown_not_wrapped() -> None:
    message = depth_message(np.float32([[65.0, 70.0, np.inf, np.nan]]), '16UC1', Header())
    assert np.frombuffer(message.data, np.uint16).tolist() == [65000, 0, 0, 0]


def test_sources_name_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match='contains no images'):
        ImageFolder(tmp_path)
    (tmp_path / 'broken.png').write_bytes(b'no png')
    (tmp_path / 'empty.png').write_bytes(b'')
    for name in ('broken.png', 'empty.png'):
        with pytest.raises(CameraError, match=f'{name} is not an image'):
            ImageFolder(tmp_path).frame(name)
    with pytest.raises(CameraError, match='photograph, folder, scene'):
        open_source('webcam', '')
    for name in Photographs().items():
        assert Photographs().frame(name).image.size
