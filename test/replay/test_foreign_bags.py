"""Sound bags as other recorders, converters and hands leave them: the camera is always read."""

from __future__ import annotations

from pathlib import Path
import re
import shutil
import sqlite3

from foreign import (
    CAMERA,
    Channel,
    defined,
    IMAGE,
    image,
    images,
    Message,
    NOETIC,
    serialized,
    START,
    STEP,
    write_mcap,
)
from foreign_topics import CDR, READABLE, UNREADABLE
import numpy as np
import pytest
from recordings import Recording, scene_frame
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Ros1Writer
import zstandard

from segzero_ros.config import read_profile
from segzero_ros.replay.bag import BagError, BagReader
from segzero_ros.replay.query_file import QueryPlan
from segzero_ros.replay.replay import replay, ReplayListener, ReplayOptions
from segzero_ros.replay.topics import find_topics, NoTopic
from segzero_ros.types import Status

COLOUR = '/camera/image_raw'
ASKED = ReplayOptions(
    QueryPlan(texts=('the largest object',)), without=frozenset({'video', 'report', 'overlays'})
)


@pytest.fixture(scope='module')
def parameters() -> dict[str, object]:
    return read_profile('offline')


def beside(path: Path, channel: Channel, data: bytes = CDR, **options) -> Path:
    """Write a camera, and two messages on /other."""
    channels = [('/other', channel), (COLOUR, CAMERA)]
    others = [Message('/other', START + n * STEP, data) for n in range(2)]
    messages = sorted(others + images(COLOUR, 3), key=lambda message: message.stamp_ns)
    return write_mcap(path, channels, messages, **options)


def replayed(path: Path, output: Path, parameters) -> tuple[list[str], list, dict[str, int]]:
    """Replay a bag; return the warnings, the answers, and what the new bag holds for rosbags."""
    warnings: list[str] = []
    folder = replay(path, output, parameters, ASKED, ReplayListener(on_warning=warnings.append))
    with AnyReader([folder.bag]) as reader:
        for connection, _, data in reader.messages():
            reader.deserialize(data, connection.msgtype)
        counts = {topic: info.msgcount for topic, info in reader.topics.items()}
    return warnings, list(folder.records()), counts


@pytest.mark.slow
@pytest.mark.parametrize('kind', UNREADABLE)
def test_a_topic_that_cannot_be_read_is_left_out_and_named(kind, parameters, tmp_path):
    channel, why = UNREADABLE[kind]
    path = beside(tmp_path / 'bag.mcap', channel)
    warnings, answers, counts = replayed(path, tmp_path / 'out', parameters)
    assert [answer.answer.status for answer in answers].count(Status.ERROR) == 0
    assert len(answers) == counts[COLOUR] == 3
    assert '/other' not in counts
    (warning,) = (warning for warning in warnings if warning.startswith('/other'))
    assert re.search(why, warning)
    assert not any('damaged' in warning for warning in warnings)


@pytest.mark.slow
@pytest.mark.parametrize('kind', READABLE)
def test_a_topic_with_an_unusual_definition_is_copied_as_what_it_is(kind, parameters, tmp_path):
    channel, data = READABLE[kind]
    path = beside(tmp_path / 'bag.mcap', channel, data)
    warnings, _, counts = replayed(path, tmp_path / 'out', parameters)
    assert (counts[COLOUR], counts['/other']) == (3, 2)
    assert not any('/other' in warning for warning in warnings)
    with BagReader(tmp_path / 'out' / 'bag') as bag:
        (first, _) = bag.messages({'/other'})
        assert (first.data, first.type.count('/')) == (data, 2)


def test_a_char_is_hashed_as_rosidl_does(tmp_path):
    path = beside(tmp_path / 'bag.mcap', Channel('std_msgs/msg/Char', 'ros2msg', b'char data\n'))
    with BagReader(path) as bag:
        store = bag.interface_of('/other').typestore
    # From the file that rosidl makes for std_msgs.
    assert store.hash_rihs01('std_msgs/msg/Char') == (
        'RIHS01_3ad2d04dd29ba19d04b16659afa3ccaedd691914b02a64e82e252f2fa6a586a9'
    )


def test_two_types_on_one_topic_are_read_as_the_one_with_more_messages(parameters, tmp_path):
    text = Channel('std_msgs/msg/String', 'ros2msg', b'string data\n')
    first = write_mcap(tmp_path / 'a.mcap', [(COLOUR, CAMERA)], images(COLOUR, 4))
    words = [Message(COLOUR, START, serialized('std_msgs/msg/String', 'hello'))]
    second = write_mcap(tmp_path / 'b.mcap', [(COLOUR, text)], words)
    folder = tmp_path / 'both'
    folder.mkdir()
    for path in (first, second):
        shutil.move(path, folder)
    warnings, answers, counts = replayed(folder, tmp_path / 'out', parameters)
    assert (len(answers), counts[COLOUR]) == (4, 4)
    assert any(f'1 message on {COLOUR} is skipped: it has' in warning for warning in warnings)


def test_a_camera_is_read_by_its_own_definition_whatever_others_say(parameters, tmp_path):
    # A type of the name of ours with other fields, as of a later distribution.
    other = defined(IMAGE).replace(b'uint32 width', b'uint32 width\nuint32 depth')
    path = beside(tmp_path / 'bag.mcap', Channel(definition=other), image(0))
    warnings, answers, counts = replayed(path, tmp_path / 'out', parameters)
    assert {answer.answer.status for answer in answers} != {Status.ERROR}
    assert counts[COLOUR] == 3
    assert any('/other' in warning and 'other fields' in warning for warning in warnings)


def test_a_part_of_a_type_that_others_define_otherwise_is_left_out(parameters, tmp_path):
    text = b'std_msgs/Header header\n' + b'=' * 80 + b'\nMSG: std_msgs/Header\nuint8 level\n'
    path = beside(tmp_path / 'bag.mcap', Channel('far_msgs/msg/Thing', 'ros2msg', text))
    warnings, answers, counts = replayed(path, tmp_path / 'out', parameters)
    assert (len(answers), counts[COLOUR], '/other' in counts) == (3, 3, False)
    assert any('std_msgs/msg/Header has other fields' in warning for warning in warnings)


def test_an_image_without_pixels_by_its_definition_is_no_camera(tmp_path):
    other = Channel(definition=b'std_msgs/Header header\nuint8[] bytes\n')
    path = write_mcap(tmp_path / 'bag.mcap', [(COLOUR, other)], [Message(COLOUR, START, CDR)])
    with BagReader(path) as bag, pytest.raises(NoTopic, match="Image has no field 'height'"):
        find_topics(bag)


@pytest.mark.slow
def test_a_camera_with_an_unknown_definition_is_read_by_ours(parameters, tmp_path):
    for number, camera in enumerate((Channel(), Channel(schema_encoding='unknown'))):
        path = tmp_path / f'{number}.mcap'
        write_mcap(path, [(COLOUR, camera)], images(COLOUR, 3))
        _, answers, counts = replayed(path, tmp_path / f'out{number}', parameters)
        assert (len(answers), counts[COLOUR]) == (3, 3)


@pytest.mark.parametrize('profile', ['', 'ros2', 'px4'])
def test_the_profile_says_nothing_of_damage(tmp_path, profile):
    path = beside(tmp_path / 'bag.mcap', Channel('std_msgs/msg/Int32', ''), profile=profile)
    with BagReader(path, salvage=True) as bag:
        assert (bag.counts[COLOUR], bag.damage) == (3, '')


@pytest.mark.slow
def test_ros_1_in_mcap_is_read_like_a_bag_of_ros_1(parameters, tmp_path):
    camera = Channel(IMAGE.replace('/msg/', '/'), 'ros1msg', _of_ros1(IMAGE), 'ros1')
    text = Channel('std_msgs/String', 'ros1msg', b'string data\n', 'ros1', (('latching', '1'),))
    words = Message(
        '/other',
        START,
        NOETIC.serialize_ros1(NOETIC.types['std_msgs/msg/String']('hi'), 'std_msgs/msg/String'),
    )
    path = write_mcap(
        tmp_path / 'bag.mcap',
        [(COLOUR, camera), ('/other', text)],
        [words, *images(COLOUR, 3, ros1=True)],
        profile='ros1',
    )
    warnings, answers, counts = replayed(path, tmp_path / 'out', parameters)
    assert [answer.stamp_ns for answer in answers] == [START + n * STEP for n in range(3)]
    assert (counts[COLOUR], counts['/other']) == (3, 1)
    assert not any('damaged' in warning for warning in warnings)
    with BagReader(path) as bag:
        assert next(bag.messages({COLOUR})).data == image(0)
        assert bag.qos_of('/other')[0].durability.name == 'TRANSIENT_LOCAL'


def _of_ros1(kind: str) -> bytes:
    return NOETIC.generate_msgdef(kind, ros_version=1)[0].encode()


@pytest.mark.slow
def test_types_of_ros_1_that_changed_are_left_out_and_named(parameters, tmp_path):
    path = tmp_path / 'bag.bag'
    with Ros1Writer(path) as writer:
        camera = writer.add_connection(COLOUR, IMAGE, typestore=NOETIC)
        sonar = writer.add_connection('/sonar', 'sensor_msgs/msg/Range', typestore=NOETIC)
        empty = writer.add_connection('/empty', 'std_msgs/msg/Empty', typestore=NOETIC)
        marker = writer.add_connection('/mark', 'visualization_msgs/msg/Marker', typestore=NOETIC)
        joints = writer.add_connection('/joints', 'sensor_msgs/msg/JointState', typestore=NOETIC)
        header = NOETIC.types['std_msgs/msg/Header'](
            1, NOETIC.types['builtin_interfaces/msg/Time'](1, 2), 'a'
        )
        none = joints_of(header)
        for number in range(3):
            stamp = START + number * STEP
            writer.write(camera, stamp, image(number, ros1=True))
            # They are never looked into.
            writer.write(sonar, stamp, bytes(20))
            writer.write(marker, stamp, bytes(20))
            writer.write(joints, stamp, none)
            writer.write(empty, stamp, b'')
    warnings, answers, counts = replayed(path, tmp_path / 'out', parameters)
    assert len(answers) == counts[COLOUR] == counts['/joints'] == counts['/empty'] == 3
    for topic, kind in (('/sonar', 'Range'), ('/mark', 'Marker')):
        assert topic not in counts
        assert any(
            r.startswith(topic) and f'{kind} has other fields in ROS 1' in r for r in warnings
        )


def joints_of(header) -> bytes:
    none = np.zeros(0)
    message = NOETIC.types['sensor_msgs/msg/JointState'](header, [], none, none, none)
    return bytes(NOETIC.serialize_ros1(message, 'sensor_msgs/msg/JointState'))


def test_a_message_that_is_none_of_its_type_costs_itself_only(parameters, tmp_path):
    path = tmp_path / 'bag.bag'
    with Ros1Writer(path) as writer:
        camera = writer.add_connection(COLOUR, IMAGE, typestore=NOETIC)
        text = writer.add_connection('/words', 'std_msgs/msg/String', typestore=NOETIC)
        for number in range(3):
            writer.write(camera, START + number * STEP, image(number, ros1=True))
            words = b'\2\0\0\0hi' if number else b'\xff\0\0\0hi'
            writer.write(text, START + number * STEP, words)
    warnings, answers, counts = replayed(path, tmp_path / 'out', parameters)
    assert (len(answers), counts['/words']) == (3, 2)
    assert any('a message on /words is not a valid std_msgs/msg/String' in r for r in warnings)
    with BagReader(path, salvage=True) as bag:
        for _ in range(2):
            assert len(list(bag.messages({'/words'}))) == bag.counts['/words'] == 2


def test_a_foxglove_recording_is_named_as_such(tmp_path):
    channel = Channel('foxglove.CompressedImage', 'protobuf', b'\n\0', 'protobuf')
    messages = [Message('/camera', START, b'\n\0')]
    path = write_mcap(tmp_path / 'bag.mcap', [('/camera', channel)], messages, profile='')
    with BagReader(path, salvage=True) as bag:
        with pytest.raises(NoTopic) as error:
            find_topics(bag)
        assert bag.damage == ''
    assert 'Foxglove messages (foxglove.CompressedImage, protobuf)' in str(error.value)
    assert 'convert them to ROS messages first (docs/replay.md)' in str(error.value)
    assert '\n' not in str(error.value)


def table(kind: str, tmp_path: Path) -> Path:
    """Return a bag of the camera of `recordings`, in a folder."""
    return Recording().camera([scene_frame(3)] * 3).write(tmp_path / 'bag', kind)


def read(path: Path) -> tuple[int, str]:
    with BagReader(path, salvage=True) as bag:
        found = find_topics(bag)
        counts = [sum(1 for _ in bag.messages({topic})) for topic in sorted(found.camera)]
        assert counts == [bag.counts[topic] for topic in sorted(found.camera)] == [3, 3, 3]
        for message in bag.messages(found.camera):
            bag.parse(message)
        return sum(1 for _ in bag.messages()), bag.damage


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['mcap', 'sqlite3'])
@pytest.mark.parametrize(
    'profile',
    [
        '{history: 1, depth: 5, reliability: 1, durability: 2}',
        '{history: keep_last, reliability: best_effort, durability: transient_local}',
        '{history: 99, depth: many, reliability: wishful, deadline: soon}',
        'anything',
    ],
)
def test_qos_that_was_edited_stops_nothing(tmp_path, kind, profile, parameters):
    path = table(kind, tmp_path)
    metadata = path / 'metadata.yaml'
    lines = metadata.read_text().replace(
        'offered_qos_profiles: []', f'offered_qos_profiles: [{profile}]'
    )
    assert profile in lines
    metadata.write_text(lines)
    assert read(path) == (9, '')
    assert replayed(path, tmp_path / 'out', parameters)[2]['/camera/color/image_raw'] == 3


@pytest.mark.parametrize('kind', ['mcap message', 'sqlite3 message', 'mcap file', 'sqlite3 file'])
def test_the_file_of_a_compressed_bag_is_read_alone(tmp_path, kind):
    (file,) = (f for f in table(kind, tmp_path).iterdir() if f.name != 'metadata.yaml')
    alone = tmp_path / 'alone' / file.name
    alone.parent.mkdir()
    shutil.move(file, alone)
    assert read(alone) == (9, '')
    shutil.move(alone, alone.with_name('recording'))
    assert read(alone.with_name('recording')) == (9, '')


def test_a_folder_that_was_unpacked_or_renamed_by_hand_is_read_once(tmp_path):
    path = table('sqlite3 file', tmp_path)
    (packed,) = path.glob('*.zstd')
    plain = packed.with_suffix('')
    with packed.open('rb') as source, plain.open('wb') as out:
        zstandard.ZstdDecompressor().copy_stream(source, out)
    # As `ros2 bag` leaves it after playing: both are there.
    assert read(path) == (9, '')
    metadata = path / 'metadata.yaml'
    text = metadata.read_text()
    metadata.unlink()
    count, said = read(path)
    assert count == 9
    assert 'metadata.yaml is missing; its files are complete, and 9 messages can be read' in said
    assert 'damaged' not in said
    metadata.write_text(text)
    packed.unlink()
    assert read(path) == (9, '')
    plain.rename(path / 'kitchen.db3')
    assert read(path) == (9, '')
    (path / 'notes.txt').write_text('the red cup is new')
    (path / 'thumbs.db').write_bytes(b'SQLite format 3\0' + bytes(100))
    assert read(path) == (9, '')


def test_a_file_that_the_metadata_names_and_that_is_gone_is_said(tmp_path):
    path = table('mcap', tmp_path)
    metadata = path / 'metadata.yaml'
    text = metadata.read_text()
    listed = 'relative_file_paths:\n  - bag.mcap'
    assert listed in text
    metadata.write_text(text.replace(listed, f'{listed}\n  - bag_1.mcap'))
    count, damage = read(path)
    assert count == 9
    assert 'bag_1.mcap is missing' in damage


@pytest.mark.parametrize('text', ['', '{', 'just words', '- a\n- list\n', '!!python/none x'])
def test_metadata_that_is_none_costs_nothing_but_a_remark(tmp_path, text):
    path = table('sqlite3', tmp_path)
    (path / 'metadata.yaml').write_text(text)
    count, damage = read(path)
    assert count == 9
    assert 'metadata.yaml cannot be read' in damage
    assert 'damaged' not in damage
    with pytest.raises(BagError, match=r'metadata\.yaml cannot be read'):
        BagReader(path)


@pytest.mark.parametrize(
    'change',
    [
        "UPDATE message_definitions SET encoding = 'unknown', encoded_message_definition = ''",
        "UPDATE message_definitions SET encoding = ''",
        "UPDATE topics SET offered_qos_profiles = 'anything: ['",
        'DROP TABLE message_definitions',
        'DROP TABLE schema',
        'DROP TABLE metadata',
        'ALTER TABLE topics DROP COLUMN type_description_hash',
        'ALTER TABLE topics DROP COLUMN offered_qos_profiles',
        'DROP INDEX timestamp_idx',
        "UPDATE topics SET type_description_hash = 'RIHS01_other'",
        "INSERT INTO topics VALUES (99, '/far', 'far_msgs/msg/Thing', 'cdr', '', '')",
        "INSERT INTO topics VALUES (99, '/json', 'thing', 'json', '', '')",
    ],
)
def test_sqlite_of_every_version_and_recorder_is_read(tmp_path, change):
    path = table('sqlite3', tmp_path)
    (file,) = path.glob('*.db3')
    database = sqlite3.connect(file)
    database.execute(change)
    database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (99, 1, 'text')")
    database.commit()
    database.close()
    assert read(path) == (9, '')
    assert read(file) == (9, '')


def test_what_sqlite_had_not_yet_moved_into_the_file_is_read_too(tmp_path, monkeypatch):
    path = table('sqlite3', tmp_path)
    (file,) = path.glob('*.db3')
    database = sqlite3.connect(file)
    database.execute('PRAGMA journal_mode=WAL')
    database.execute('PRAGMA wal_autocheckpoint=0')
    (row,) = database.execute('SELECT topic_id, data FROM messages LIMIT 1')
    later = START + 10**9
    database.execute(
        'INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)',
        (row[0], later, row[1]),
    )
    database.commit()
    # As a recorder that was killed leaves it.
    killed = tmp_path / 'killed'
    shutil.copytree(path, killed)
    database.close()
    assert (killed / f'{file.name}-wal').stat().st_size
    with BagReader(killed, salvage=True) as bag:
        assert sum(bag.counts.values()) == len(list(bag.messages())) == 10
        assert bag.damage == ''
    connect = sqlite3.connect

    def refuse(address, **options):
        if 'mode=ro' in address:
            raise sqlite3.OperationalError('unable to open database file')
        return connect(address, **options)

    # As in a folder in which nobody may lock anything.
    monkeypatch.setattr(sqlite3, 'connect', refuse)
    with BagReader(killed, salvage=True) as bag:
        assert len(list(bag.messages())) == 9
        assert 'db3-wal cannot be read: unable to open' in bag.damage


@pytest.mark.parametrize('name', ['a bag?', '100%', 'k#1'])
def test_names_that_mean_something_in_addresses_are_read(tmp_path, name):
    folder = tmp_path / name
    shutil.copytree(table('sqlite3', tmp_path), folder)
    assert read(folder) == (9, '')


def test_several_bags_of_ros_1_in_a_folder_are_one_recording(tmp_path):
    folder = tmp_path / 'split'
    folder.mkdir()
    for number in (2, 0, 1):
        with Ros1Writer(folder / f'split_{9 - number}.bag') as writer:
            camera = writer.add_connection(COLOUR, IMAGE, typestore=NOETIC)
            writer.write(camera, START + number * STEP, image(number, ros1=True))
    with BagReader(folder) as bag:
        assert [m.stamp_ns for m in bag.messages()] == [START + n * STEP for n in range(3)]


@pytest.mark.parametrize('kind', ['mcap', 'sqlite3', 'rosbag1'])
def test_a_bag_of_one_message_is_a_bag(tmp_path, kind):
    recording = Recording()
    recording.picture(COLOUR, scene_frame(3), 0)
    with BagReader(recording.write(tmp_path / 'bag', kind)) as bag:
        assert find_topics(bag).image == COLOUR
        begin, end = bag.span_ns
        assert begin == end
        assert len(list(bag.messages())) == 1
