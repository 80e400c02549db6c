"""MCAP is read whole however it was written: every valid combination of its writer's options."""

from __future__ import annotations

from itertools import product
from pathlib import Path
import tracemalloc

from foreign import CAMERA, images, Message, START, STEP, write_mcap
from mcap.reader import make_reader
from mcap.records import Chunk, MessageIndex, Statistics
from mcap.writer import CompressionType, IndexType
import pytest

from segzero_ros.replay.bag import BagReader
from segzero_ros.replay.storage.mcap_file import McapFile

COLOUR, DEPTH = '/camera/color/image_raw', '/camera/depth/image_raw'
COUNT = 12
OPTIONS = list(
    product(
        (True, False),
        (IndexType.NONE, IndexType.CHUNK, IndexType.MESSAGE, IndexType.ALL),
        (True, False),
        (True, False),
        (True, False),
        ('in order', 'by topic'),
    )
)
COMPRESSIONS = (CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD)


def recorded(order: str) -> list[Message]:
    colour, depth = images(COLOUR, COUNT), images(DEPTH, COUNT, encoding='16UC1')
    if order == 'by topic':
        return depth + colour
    return sorted(colour + depth, key=lambda message: message.stamp_ns)


def write(path: Path, messages: list[Message], **options) -> Path:
    return write_mcap(path, [(COLOUR, CAMERA), (DEPTH, CAMERA)], messages, **options)


@pytest.mark.slow
@pytest.mark.parametrize('number', range(len(OPTIONS)))
def test_every_combination_of_options_is_read_whole(tmp_path, number):
    chunked, index, schemas, channels, statistics, order = OPTIONS[number]
    path = write(
        tmp_path / 'bag.mcap',
        recorded(order),
        use_chunking=chunked,
        index_types=index,
        repeat_schemas=schemas,
        repeat_channels=channels,
        use_statistics=statistics,
        # Each of these goes with each of those in turn.
        compression=COMPRESSIONS[number % 3],
        enable_crcs=number // 3 % 2 == 0,
        enable_data_crcs=number // 6 % 2 == 0,
        use_summary_offsets=number // 12 % 2 == 0,
        chunk_size=1500,
    )
    with BagReader(path) as bag:
        assert bag.topics == dict.fromkeys((COLOUR, DEPTH), 'sensor_msgs/msg/Image')
        assert bag.counts == {COLOUR: COUNT, DEPTH: COUNT}
        assert bag.span_ns == (START, START + (COUNT - 1) * STEP)
        for topic in (COLOUR, DEPTH):
            alone = [message.stamp_ns for message in bag.messages({topic})]
            assert alone == [START + n * STEP for n in range(COUNT)]
        together = list(bag.messages())
        assert {bag.parse(message).encoding for message in together} == {'rgb8', '16UC1'}
        assert bag.damage == ''
    stamps = [message.stamp_ns for message in together]
    assert stamps == sorted(stamps)
    assert len(stamps) == 2 * COUNT


@pytest.mark.parametrize('chunked', [True, False])
def test_a_frame_that_came_late_has_its_place(tmp_path, chunked):
    messages = recorded('in order')
    messages[4], messages[9] = messages[9], messages[4]
    path = write(tmp_path / 'late.mcap', messages, use_chunking=chunked, chunk_size=1500)
    with BagReader(path) as bag:
        stamps = [message.stamp_ns for message in bag.messages()]
        assert (stamps, len(stamps)) == (sorted(stamps), 2 * COUNT)
        assert bag.damage == ''


def test_readings_that_go_on_at_a_time_do_not_disturb_each_other(tmp_path):
    path = write(tmp_path / 'bag.mcap', recorded('in order'), chunk_size=1500)
    with BagReader(path) as bag:
        colour, depth = bag.messages({COLOUR}), bag.messages({DEPTH})
        pairs = list(zip(colour, depth, strict=True))
    assert all(a.stamp_ns == b.stamp_ns and a.topic != b.topic for a, b in pairs)
    assert len(pairs) == COUNT


def test_counts_that_the_indexes_get_wrong_are_those_that_are_read(tmp_path, monkeypatch):
    path = tmp_path / 'bag.mcap'
    honest = MessageIndex.write

    def write_half(index, stream):
        honest(MessageIndex(index.channel_id, index.records[::2]), stream)

    monkeypatch.setattr(MessageIndex, 'write', write_half)
    write(path, recorded('in order'), chunk_size=4000)
    with BagReader(path) as bag:
        assert bag.counts == {COLOUR: COUNT, DEPTH: COUNT}
    monkeypatch.setattr(Statistics, 'write', lambda *_: None)
    write(path, recorded('in order'), chunk_size=4000)
    with BagReader(path) as bag:
        assert len(list(bag.messages())) == 2 * COUNT
        assert bag.counts == {COLOUR: COUNT, DEPTH: COUNT}


def test_indexed_chunks_are_not_decompressed_to_count_them(tmp_path, monkeypatch):
    path = write(tmp_path / 'bag.mcap', recorded('in order'), chunk_size=1500)
    monkeypatch.setattr(Chunk, 'read', lambda _: pytest.fail('a chunk was read'))
    file = McapFile(path, pytest.fail)
    assert file.counts.total() == 2 * COUNT


@pytest.mark.parametrize('chunked', [True, False])
def test_memory_does_not_grow_with_a_file_that_holds_topic_after_topic(tmp_path, chunked):
    count, size = 60, 200_000
    messages = [
        Message(topic, START + n * STEP, message.data + bytes(size))
        for topic in (COLOUR, DEPTH)
        for n, message in enumerate(images(topic, count))
    ]
    path = write(
        tmp_path / 'bag.mcap',
        messages,
        use_chunking=chunked,
        index_types=IndexType.NONE,
        chunk_size=1_000_000,
    )
    tracemalloc.start()
    with BagReader(path) as bag:
        tracemalloc.reset_peak()
        begun = tracemalloc.get_traced_memory()[0]
        assert sum(1 for _ in bag.messages()) == 2 * count
        peak = tracemalloc.get_traced_memory()[1] - begun
    tracemalloc.stop()
    # A chunk of each topic, packed and unpacked and as messages; the file is 24 MB.
    assert peak < 9_000_000


def test_times_of_zero_are_not_when_the_bag_began(tmp_path):
    early = [Message(COLOUR, 0, images(COLOUR, 1)[0].data)]
    for chunked in (True, False):
        path = tmp_path / f'{chunked}.mcap'
        write(path, early + images(COLOUR, 5), use_chunking=chunked)
        with BagReader(path) as bag:
            assert bag.counts == {COLOUR: 6, DEPTH: 0}
            assert bag.span_ns == (START, START + 4 * STEP)
            assert [m.stamp_ns for m in bag.messages()][:2] == [0, START]
        write(path, [message._replace(stamp_ns=0) for message in images(COLOUR, 5)])
        with BagReader(path) as bag:
            assert (bag.span_ns, len(list(bag.messages()))) == ((0, 0), 5)


def test_a_file_cut_anywhere_is_read_up_to_there(tmp_path):
    whole = write(tmp_path / 'bag.mcap', recorded('in order'), chunk_size=1500).read_bytes()
    read = []
    for share in (0.3, 0.5, 0.7, 0.9):
        path = tmp_path / f'{share}.mcap'
        path.write_bytes(whole[: int(len(whole) * share)])
        with BagReader(path, salvage=True) as bag:
            read.append(len(list(bag.messages())))
            assert f'{read[-1]} messages can be read' in bag.damage
    assert 0 < read[0] < read[1] < read[2] <= read[3] == 2 * COUNT


def test_behind_a_broken_place_the_summary_leads_on(tmp_path):
    path = write(tmp_path / 'bag.mcap', recorded('in order'), chunk_size=1500)
    with path.open('rb') as file:
        chunks = make_reader(file).get_summary().chunk_indexes
    assert len(chunks) > 4
    data = bytearray(path.read_bytes())
    # The length of a record, without which nobody knows where the next begins.
    begin = chunks[2].chunk_start_offset
    data[begin + 1 : begin + 9] = b'\xff' * 8
    path.write_bytes(data)
    with BagReader(path, salvage=True) as bag:
        stamps = [message.stamp_ns for message in bag.messages()]
        assert stamps[-1] == START + (COUNT - 1) * STEP
        assert 2 * COUNT - 6 <= len(stamps) < 2 * COUNT
        assert 'is truncated or damaged' in bag.damage
