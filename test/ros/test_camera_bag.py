"""The simulated camera plays of a bag what replay asks about, of every kind of bag."""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys

from foreign import CAMERA, Channel, image, images, Message, START, STEP, write_mcap
import pytest
from rclpy.time import Time
from recordings import KINDS, Recording, scene_frame

from segzero_ros.replay.bag import BagReader
from segzero_ros.replay.topics import find_topics
from segzero_ros.ros.camera_sim.bag_playback import BagPlayback
from segzero_ros.ros.camera_sim.sources import CameraError

COLOUR = '/camera/color/image_raw'


def shown(path: Path, item: str = '') -> list[tuple[str, str]]:
    """Return what is published, one after the other: on which topic, of which optical frame."""
    playback = BagPlayback(path, item, loop=False, recorded=True)
    found, delay = [], 0
    try:
        while delay is not None:
            messages, delay = playback.next(Time())
            found += [(topic, message.header.frame_id) for topic, message in messages]
    finally:
        playback.close()
    return found


def realsense() -> Recording:
    """Record as a RealSense does whose depth is aligned: both depths have the colour's size."""
    recording, frame = Recording(), scene_frame(3)
    for prefix, frame_id, encoding in (
        ('infra1', 'infra1', 'mono8'),
        ('depth', 'depth', '16UC1'),
        ('aligned_depth_to_color', 'color', '16UC1'),
        ('color', 'color', 'rgb8'),
    ):
        recording.frame_id = frame_id
        recording.picture(f'/camera/{prefix}/image_raw', frame, 0, encoding=encoding)
        recording.info(f'/camera/{prefix}/camera_info', frame, 0)
    recording.frame_id = 'color'
    recording.jpeg(f'{COLOUR}/compressed', frame, 0)
    return recording


@pytest.mark.parametrize('kind', KINDS)
def test_depth_and_intrinsics_are_those_that_replay_takes(tmp_path, kind):
    path = realsense().write(tmp_path / 'bag', kind)
    with BagReader(path) as bag:
        found = find_topics(bag)
    assert found.depth == '/camera/aligned_depth_to_color/image_raw'
    assert found.camera_info == '/camera/color/camera_info'
    assert sorted(shown(path)) == [(role, 'color') for role in ('camera_info', 'depth', 'image')]


def test_depth_of_another_camera_is_not_played(tmp_path):
    recording, frame = Recording(), scene_frame(3)
    for side in ('left', 'right'):
        recording.frame_id = side
        recording.picture(f'/{side}/image_raw', frame, 0)
    recording.picture('/right/depth/image_raw', frame, 0, encoding='16UC1')
    path = recording.write(tmp_path / 'bag')
    assert shown(path) == [('image', 'left')]
    assert sorted(shown(path, '/right/image_raw')) == [('depth', 'right'), ('image', 'right')]
    with pytest.raises(CameraError, match='no colour images on'):
        BagPlayback(path, '/right/depth/image_raw', loop=False)


def test_a_camera_beside_topics_that_cannot_be_read_is_played(tmp_path):
    json = Channel('battery', 'jsonschema', b'{}', 'json')
    messages = [Message('/battery', START, b'{}'), *images(COLOUR, 3)]
    path = write_mcap(tmp_path / 'bag.mcap', [('/battery', json), (COLOUR, CAMERA)], messages)
    assert shown(path) == [('image', 'camera')] * 3
    alone = write_mcap(tmp_path / 'json.mcap', [('/battery', json)], messages[:1])
    with pytest.raises(CameraError, match='battery, json'):
        BagPlayback(alone, '', loop=False)


def test_a_damaged_bag_is_played_as_far_as_it_can_be_read(tmp_path, caplog):
    messages = [Message(COLOUR, START + n * STEP, image(n)) for n in range(10)]
    path = write_mcap(tmp_path / 'bag.mcap', [(COLOUR, CAMERA)], messages, use_chunking=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 2 <= len(shown(path)) < 10
    assert 'is damaged' in caplog.text


def test_without_the_libraries_for_bags_the_other_sources_can_be_had():
    code = (
        'import sys; sys.modules["rosbags"] = None\n'
        'from segzero_ros.ros.camera_sim import playback\n'
        'from segzero_ros.ros.camera_sim.node import SPECS\n'
        'from segzero_ros.types import SegZeroError\n'
        'values = {spec.name: spec.default for spec in SPECS}\n'
        'still = playback.Settings(**{**values, "source": "scene", "item": "scene_1"})\n'
        'playback.open_playback(still)\n'
        'try: playback.open_playback(playback.Settings(**{**values, "source": "bag"}))\n'
        'except SegZeroError as error: print(error)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=120
    )
    assert 'scripts/install_models bags' in done.stdout
