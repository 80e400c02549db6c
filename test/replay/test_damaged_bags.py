"""Of a damaged bag everything is used that can be read, and the rest is said."""

from __future__ import annotations

from pathlib import Path
import re
import shutil

import pytest
from recordings import Recording, scene_frame, START, STEP

from segzero_ros.replay.bag import BagError, BagReader
from segzero_ros.replay.storage.base import reason_of
from segzero_ros.replay.topics import find_topics

FRAMES = 12
IMAGES = '/camera/color/image_raw'


def recorded(path: Path, kind: str) -> Path:
    return Recording().camera([scene_frame(3)] * FRAMES).write(path, kind)


def storage(path: Path) -> Path:
    """Return the file that holds the messages."""
    if path.is_file():
        return path
    return next(file for file in path.iterdir() if file.name != 'metadata.yaml')


def cut(path: Path, share: float) -> None:
    """Cut a file off after a share of its bytes, as a full disk or a lost battery does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def images(reader: BagReader) -> list[int]:
    """Return the stamps of the images that can be read and parsed, in steps of the camera."""
    messages = list(reader.messages({IMAGES}))
    for message in messages:
        assert reader.parse(message).width == 320
    return [(message.stamp_ns - START) // STEP for message in messages]


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['mcap', 'mcap storage', 'sqlite3', 'rosbag1', 'rosbag1 bz2'])
def test_a_bag_that_was_cut_off_is_read_up_to_there(tmp_path, kind):
    path = recorded(tmp_path / 'bag', kind)
    cut(storage(path), 0.6)
    with pytest.raises(BagError), BagReader(path) as reader:
        list(reader.messages())
    with BagReader(path, salvage=True) as reader:
        found = images(reader)
        assert found == list(range(len(found)))
        assert FRAMES * 0.2 <= len(found) < FRAMES
        assert 'is damaged' in reader.damage
        assert f'{sum(reader.counts.values())} messages can be read' in reader.damage
        assert find_topics(reader).image == IMAGES


@pytest.mark.parametrize('kind', ['mcap', 'mcap message', 'sqlite3', 'sqlite3 message'])
def test_a_bag_without_its_metadata_is_read_whole(tmp_path, kind):
    path = recorded(tmp_path / 'bag', kind)
    (path / 'metadata.yaml').unlink()
    with BagReader(path, salvage=True) as reader:
        assert images(reader) == list(range(FRAMES))
        assert 'metadata.yaml is missing; its files are complete' in reader.damage
        assert 'damaged' not in reader.damage


def test_a_bag_that_was_cut_off_is_damaged_whether_or_not_metadata_is_there(tmp_path):
    path = recorded(tmp_path / 'bag', 'mcap')
    (path / 'metadata.yaml').unlink()
    cut(storage(path), 0.6)
    with BagReader(path, salvage=True) as reader:
        assert re.search(
            r'is damaged \(metadata\.yaml is missing; .* is truncated or damaged', reader.damage
        )


def test_an_error_without_a_text_is_named_by_its_kind():
    assert reason_of(AssertionError()) == 'AssertionError, without a reason'
    assert reason_of(KeyError('x')) == "KeyError 'x'"
    assert reason_of(ValueError('no\n  number.')) == 'no number'


def test_files_of_a_split_bag_are_read_in_their_order(tmp_path):
    whole = tmp_path / 'split'
    whole.mkdir()
    for number, at in ((10, 2), (9, 1), (1, 0)):
        recording = Recording()
        recording.picture(IMAGES, scene_frame(3), at * STEP)
        part = storage(recording.write(tmp_path / f'part_{number}'))
        shutil.copy(part, whole / f'split_{number}.mcap')
    with BagReader(whole, salvage=True) as reader:
        assert images(reader) == [0, 1, 2]


def test_a_broken_chunk_costs_its_own_messages_only(tmp_path):
    path = recorded(tmp_path / 'bag', 'mcap storage')
    file = storage(path)
    data = bytearray(file.read_bytes())
    # Where a compressed chunk begins; damage inside of it may change pixels without being seen.
    magic = b'\x28\xb5\x2f\xfd'
    second = data.index(magic, data.index(magic) + 1)
    data[second : second + 64] = bytes(64)
    file.write_bytes(data)
    with BagReader(path, salvage=True) as reader:
        found = images(reader)
        assert images(reader) == found
    assert found[0] == 0
    assert found[-1] == FRAMES - 1
    assert FRAMES // 2 <= len(found) < FRAMES
    assert 'is damaged' in reader.damage


@pytest.mark.parametrize('kind', ['mcap', 'sqlite3', 'rosbag1'])
def test_a_bag_of_which_nothing_is_left_is_refused(tmp_path, kind):
    path = recorded(tmp_path / 'bag', kind)
    storage(path).write_bytes(b'')
    with pytest.raises(BagError, match='bag'):
        BagReader(path, salvage=True)


def test_a_folder_without_a_bag_is_refused(tmp_path):
    with pytest.raises(BagError, match='contains no bag'):
        BagReader(tmp_path, salvage=True)


def test_an_empty_bag_has_no_camera(tmp_path):
    path = Recording().write(tmp_path / 'empty')
    with BagReader(path, salvage=True) as reader, pytest.raises(BagError, match='it is empty'):
        find_topics(reader)
