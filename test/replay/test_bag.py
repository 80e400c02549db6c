"""Bags are complete in themselves: schemas embedded, readable by others, never half a bag."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import get_typestore, Stores
import yaml

from segzero_ros.replay.bag import BagError, BagReader, BagWriter, Definitions, UnknownType

RESULT = 'segzero_ros/msg/SegmentationResult'


def result_bytes(definitions: Definitions, query: str = 'the red cup') -> bytes:
    store = definitions.require(RESULT)
    types = store.types
    stamp = types['builtin_interfaces/msg/Time'](12, 34)
    header = types['std_msgs/msg/Header'](stamp, 'camera')
    roi = types['sensor_msgs/msg/RegionOfInterest'](1, 2, 3, 4, False)
    image = types['sensor_msgs/msg/Image'](header, 1, 2, 'mono8', 0, 2, np.uint8([0, 255]))
    vector = types['geometry_msgs/msg/Vector3'](0.1, 0.2, 0.3)
    pose = types['geometry_msgs/msg/Pose'](
        types['geometry_msgs/msg/Point'](1.0, 2.0, 3.0),
        types['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0),
    )
    pixel = types['segzero_ros/msg/Pixel'](5.0, 6.0)
    thing = types['segzero_ros/msg/SegmentedObject'](
        1, 'cup', 0.9, roi, False, [pixel], roi, image, 0, pose, vector
    )
    timing = types['segzero_ros/msg/Timing'](0.0, 0.1, 0.2, 0.3, 0.6, 0.05, 7)
    message = types[RESULT](
        header, 'q1', query, 0, 0, '', 'because', '', -1, '{}', 'r', 's', 480, 640, [thing], timing
    )
    return bytes(store.serialize_cdr(message, RESULT))


def test_a_written_result_is_read_back_from_its_embedded_schema_alone(tmp_path: Path) -> None:
    data = result_bytes(Definitions())
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/segzero/result', RESULT)
        bag.write('/segzero/result', data, 1_000)
        bag.write('/segzero/result', data, 2_000)
        assert bag.counts == {'/segzero/result': 2}
    with AnyReader([tmp_path / 'bag']) as reader:
        (connection,) = reader.connections
        messages = [reader.deserialize(raw, connection.msgtype) for _, _, raw in reader.messages()]
    assert connection.msgdef.data.startswith('#') or 'uint8 status' in connection.msgdef.data
    assert 'MSG: segzero_ros/SegmentedObject' in connection.msgdef.data
    assert [message.query for message in messages] == ['the red cup'] * 2
    assert messages[0].objects[0].points[0].y == 6.0
    assert messages[0].objects[0].mask.data.tolist() == [0, 255]


def test_the_bag_has_the_metadata_that_ros2_bag_asks_for(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/a', 'std_msgs/msg/String', reliable=False)
        bag.write('/a', b'\0\1\0\0\2\0\0\0x\0', 5)
    metadata = yaml.safe_load((tmp_path / 'bag' / 'metadata.yaml').read_text())
    info = metadata['rosbag2_bagfile_information']
    assert info['storage_identifier'] == 'mcap'
    assert info['message_count'] == 1
    assert [(tmp_path / 'bag' / name).is_file() for name in info['relative_file_paths']] == [True]
    (topic,) = info['topics_with_message_count']
    assert topic['topic_metadata']['type'] == 'std_msgs/msg/String'
    assert topic['topic_metadata']['offered_qos_profiles'][0]['reliability'] == 'best_effort'


def test_images_are_compressed(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/a', 'std_msgs/msg/String')
        for stamp in range(8):
            bag.write('/a', b'\0\1\0\0' + bytes(1_000_000), stamp)
    assert (tmp_path / 'bag' / 'bag.mcap').stat().st_size < 100_000


def test_a_broken_recording_never_looks_complete(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match='pulled'), BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/a', 'std_msgs/msg/String')
        raise RuntimeError('pulled')
    assert (tmp_path / 'bag').is_dir()
    assert not (tmp_path / 'bag' / 'metadata.yaml').exists()


def test_an_existing_bag_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'bag').mkdir()
    with pytest.raises(BagError, match='exists already'):
        BagWriter(tmp_path / 'bag')


def test_an_unknown_type_is_named_with_the_places_that_were_searched(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        with pytest.raises(UnknownType, match=r'nobody_msgs/msg/Nothing.*share/nobody_msgs/msg'):
            bag.add_topic('/a', 'nobody_msgs/msg/Nothing')
        with pytest.raises(UnknownType, match='Unheard'):
            bag.add_topic('/a', 'segzero_ros/msg/Unheard')


def test_own_types_are_found_without_a_sourced_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    assert RESULT in Definitions().require(RESULT).fielddefs


def test_installed_types_of_other_packages_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'share' / 'far_msgs' / 'msg'
    folder.mkdir(parents=True)
    (folder / 'Inner.msg').write_text('float32 x\n')
    (folder / 'Outer.msg').write_text('std_msgs/Header header\nInner[] several\nInner[2] pair\n')
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/nowhere:{tmp_path}')
    store = Definitions().require('far_msgs/msg/Outer')
    assert {'far_msgs/msg/Outer', 'far_msgs/msg/Inner'} <= set(store.fielddefs)
    assert 'MSG: far_msgs/Inner' in store.generate_msgdef('far_msgs/msg/Outer', ros_version=2)[0]


def text(store: object, words: str, kind: str = 'cdr') -> bytes:
    message = store.types['std_msgs/msg/String'](words)  # type: ignore[attr-defined]
    return bytes(getattr(store, f'serialize_{kind}')(message, 'std_msgs/msg/String'))


def bag_of(path: Path, kind: str) -> Path:
    """Write one Header and one String into a bag of a kind."""
    if kind == 'rosbag1':
        store = get_typestore(Stores.ROS1_NOETIC)
        header = store.types['std_msgs/msg/Header'](
            77, store.types['builtin_interfaces/msg/Time'](1, 2), 'camera'
        )
        with Writer1(path.with_suffix('.bag')) as bag:
            connection = bag.add_connection('/h', 'std_msgs/msg/Header', typestore=store)
            bag.write(connection, 10, store.serialize_ros1(header, 'std_msgs/msg/Header'))
            connection = bag.add_connection('/s', 'std_msgs/msg/String', typestore=store)
            bag.write(connection, 20, text(store, 'words', 'ros1'))
        return path.with_suffix('.bag')
    store = get_typestore(Stores.ROS2_HUMBLE)
    header = store.types['std_msgs/msg/Header'](
        store.types['builtin_interfaces/msg/Time'](1, 2), 'camera'
    )
    with Writer2(path, version=8, storage_plugin=StoragePlugin[kind]) as bag2:
        connection = bag2.add_connection('/h', 'std_msgs/msg/Header', typestore=store)
        bag2.write(connection, 10, store.serialize_cdr(header, 'std_msgs/msg/Header'))
        connection = bag2.add_connection('/s', 'std_msgs/msg/String', typestore=store)
        bag2.write(connection, 20, text(store, 'words'))
    return path


@pytest.mark.parametrize('kind', ['rosbag1', 'SQLITE3', 'MCAP'])
def test_every_kind_of_bag_is_read_as_ros_2_messages(tmp_path: Path, kind: str) -> None:
    with BagReader(bag_of(tmp_path / 'bag', kind)) as bag:
        assert bag.topics == {'/h': 'std_msgs/msg/Header', '/s': 'std_msgs/msg/String'}
        header, words = bag.messages()
        assert [message.topic for message in bag.messages({'/s'})] == ['/s']
        assert list(bag.messages({'/nothing'})) == []
    jazzy = get_typestore(Stores.ROS2_JAZZY)
    assert (header.stamp_ns, words.stamp_ns) == (10, 20)
    decoded = jazzy.deserialize_cdr(header.data, header.type)
    assert (decoded.stamp.sec, decoded.stamp.nanosec, decoded.frame_id) == (1, 2, 'camera')
    assert jazzy.deserialize_cdr(words.data, words.type).data == 'words'


def test_what_is_no_bag_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='missing'):
        BagReader(tmp_path / 'missing')
    broken = tmp_path / 'broken.bag'
    broken.write_bytes(b'no bag at all')
    with pytest.raises(BagError, match=r'broken\.bag'):
        BagReader(broken)
