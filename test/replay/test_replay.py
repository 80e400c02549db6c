"""A bag is replayed whole, the same each time, and what it writes is for others to read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import COMPRESSED, KINDS, Recording, scene_frame, START, STEP
from rosbags.highlevel import AnyReader

from segzero_ros.config import read_profile
from segzero_ros.replay.bag import Definitions, UnknownType
from segzero_ros.replay.output import OutputError, ReplayOutput
from segzero_ros.replay.query_file import QueryPlan, TimedQuery
from segzero_ros.replay.replay import NothingToAsk, replay, ReplayListener, ReplayOptions
from segzero_ros.types import SegmenterUnavailable, Status

QUERY = 'the largest object'
EACH = ReplayOptions(QueryPlan(texts=(QUERY,)))
QUICK = ReplayOptions(EACH.plan, without=frozenset({'bag', 'video', 'report', 'overlays'}))


@pytest.fixture(scope='module')
def parameters() -> dict[str, object]:
    return read_profile('offline')


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    """Five frames with depth and intrinsics."""
    frames = [scene_frame(seed) for seed in (3, 4, 5, 3, 4)]
    return Recording().camera(frames).write(tmp_path_factory.mktemp('bags') / 'table')


@pytest.fixture(scope='module')
def whole(bag, parameters, tmp_path_factory) -> ReplayOutput:
    """The bag's replay, never interrupted."""
    return replay(bag, tmp_path_factory.mktemp('whole') / 'out', parameters, EACH)


def contents(folder: ReplayOutput) -> dict[str, str]:
    """Return a digest of every file but those that hold what the machine took."""
    timed = (folder.timings, folder.report)
    files = [path for path in folder.path.rglob('*') if path.is_file() and path not in timed]
    return {
        str(path.relative_to(folder.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def shown_topics() -> set[str]:
    """Markers, and detections where the environment has vision_msgs."""
    topics = {'/segzero/markers'}
    try:
        Definitions().require('vision_msgs/msg/Detection2DArray')
    except UnknownType:
        return topics
    return topics | {'/segzero/detections', '/segzero/detections_3d'}


def records(folder: ReplayOutput):
    return list(folder.records())


@pytest.mark.slow
def test_every_frame_is_answered_with_its_own_stamp_depth_and_intrinsics(whole):
    found = records(whole)
    assert [record.stamp_ns for record in found] == [START + n * STEP for n in range(5)]
    assert {record.answer.status for record in found} == {Status.OK}
    assert all(segment.pose for record in found for segment in record.answer.segments)
    assert found[0].answer.segments[0].mask.any()


@pytest.mark.slow
def test_images_with_more_pixels_than_allowed_are_refused_as_the_node_refuses_them(
    bag, whole, parameters, tmp_path
):
    height, width = records(whole)[0].size
    few = {**parameters, 'advanced.max_pixels': height * width - 1}
    found = records(replay(bag, tmp_path / 'out', few, EACH))
    assert {record.answer.status for record in found} == {Status.ERROR}
    said = f'at most {height * width - 1:,} are decoded'
    assert all(said in record.answer.message for record in found)
    enough = {**parameters, 'advanced.max_pixels': height * width}
    found = records(replay(bag, tmp_path / 'enough', enough, EACH))
    assert {record.answer.status for record in found} == {Status.OK}


@pytest.mark.slow
def test_the_same_bag_gives_the_same_bytes_three_times(bag, whole, parameters, tmp_path):
    first = contents(whole)
    assert {'bag/bag.mcap', 'bag/metadata.yaml', 'results.jsonl', 'video.mp4'} <= set(first)
    for name in ('second', 'third'):
        assert contents(replay(bag, tmp_path / name, parameters, EACH)) == first


@pytest.mark.slow
def test_an_interrupted_replay_goes_on_and_ends_with_the_same_bytes(
    bag, whole, parameters, tmp_path
):
    def interrupt(number, answer):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(bag, tmp_path / 'out', parameters, EACH, ReplayListener(on_answer=interrupt))
    folder = ReplayOutput(tmp_path / 'out')
    # The next answer was half written when the power went.
    with folder.timings.open('a') as timings, folder.results.open('a') as results:
        timings.write(folder.timings.read_text().splitlines()[0] + '\n')
        results.write('{"time_ns": 17000')
    assert not folder.bag.exists()
    asked: list[int] = []
    begun: list[tuple[int, int]] = []
    listener = ReplayListener(
        on_begin=lambda *counts: begun.append(counts),
        on_answer=lambda number, _: asked.append(number),
    )
    replay(bag, folder.path, parameters, EACH, listener)
    assert (begun, asked) == ([(3, 5)], [3, 4])
    assert contents(folder) == contents(whole)


@pytest.mark.slow
def test_a_replay_that_was_interrupted_while_it_wrote_goes_on_too(
    bag, whole, parameters, tmp_path
):
    def interrupt(what):
        if what == 'report.html':
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(bag, tmp_path / 'out', parameters, EACH, ReplayListener(on_write=interrupt))
    asked: list[int] = []
    listener = ReplayListener(on_answer=lambda number, _: asked.append(number))
    folder = replay(bag, tmp_path / 'out', parameters, EACH, listener)
    assert asked == []
    assert contents(folder) == contents(whole)
    assert folder.report.exists()


@pytest.mark.slow
def test_a_replay_that_never_began_to_answer_is_in_nobodys_way(bag, parameters, tmp_path):
    broken = {**parameters, 'segmenter.backend': 'scissors'}
    with pytest.raises(SegmenterUnavailable, match='scissors'):
        replay(bag, tmp_path / 'out', broken, QUICK)
    assert len(records(replay(bag, tmp_path / 'out', parameters, QUICK))) == 5


@pytest.mark.slow
def test_an_interrupted_replay_of_something_else_is_left_alone(bag, parameters, tmp_path):
    def interrupt(number, answer):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(bag, tmp_path / 'out', parameters, QUICK, ReplayListener(on_answer=interrupt))
    other = ReplayOptions(QueryPlan(texts=('the mug',)), without=QUICK.without)
    with pytest.raises(OutputError, match=r'another queries.*--restart'):
        replay(bag, tmp_path / 'out', parameters, other)
    again = ReplayOptions(other.plan, without=QUICK.without, restart=True)
    assert {r.answer.query.text for r in records(replay(bag, tmp_path / 'out', parameters, again))}


def test_a_folder_that_holds_something_is_not_touched(bag, parameters, tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(OutputError, match='not empty'):
        replay(bag, tmp_path, parameters, EACH)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


@pytest.mark.slow
def test_the_bag_holds_the_results_beside_the_originals_for_any_reader(bag, whole):
    with AnyReader([whole.bag]) as reader, AnyReader([bag]) as source:
        counts = {topic: info.msgcount for topic, info in reader.topics.items()}
        originals = {topic: info.msgcount for topic, info in source.topics.items()}
        assert counts == originals | {
            '/segzero/result': 5,
            '/segzero/reasoning': 5,
            '/segzero/label_image': 5,
            **dict.fromkeys(shown_topics(), 5),
        }
        taken = [
            (connection.topic, stamp_ns, reader.deserialize(data, connection.msgtype))
            for connection, stamp_ns, data in reader.messages()
            if connection.topic.startswith('/segzero')
        ]
        copied = [(c.topic, t, d) for c, t, d in reader.messages() if c.topic in originals]
        assert copied == [(c.topic, t, d) for c, t, d in source.messages()]
    result = next(message for topic, _, message in taken if topic == '/segzero/result')
    array = next(message for topic, _, message in taken if topic == '/segzero/markers')
    assert [marker.ns for marker in array.markers] == ['', 'boxes', 'labels']
    labels = next(message for topic, _, message in taken if topic == '/segzero/label_image')
    record = records(whole)[0]
    found, segment = result.objects[0], record.answer.segments[0]
    assert array.markers[1].pose.position.z == found.pose.position.z
    assert (result.header.stamp.sec, result.header.frame_id) == (START // 10**9, 'camera')
    assert (found.mask.data.reshape(found.mask.height, -1) > 0).tolist() == segment.mask.tolist()
    assert found.pose.position.z == pytest.approx(segment.pose.position[2])
    ids = labels.data.view('<u2').reshape(labels.height, labels.width)
    assert (ids == 1).sum() == segment.mask.sum()
    assert [stamp for topic, stamp, _ in taken if topic == '/segzero/result'] == [
        START + n * STEP for n in range(5)
    ]


def test_what_was_asked_and_written_is_text_in_the_report_and_nothing_else(
    bag, parameters, tmp_path
):
    evil = 'the <script>alert(1)</script><img src=x onerror=alert(1)>" onload="alert(1) thing'
    replay_options = ReplayOptions(
        QueryPlan(texts=(evil,)), without=frozenset({'bag', 'video', 'overlays'})
    )
    folder = replay(bag, tmp_path / 'out', parameters, replay_options)
    # The reasoner repeats the words that it does not know.
    assert 'script' in records(folder)[0].answer.message
    page = folder.report.read_text()
    assert page.count('&lt;script&gt;') >= 5
    assert '<script' not in page
    assert '<img src' not in page
    assert '" onload' not in page


def test_pictures_video_and_report_show_every_answer(whole):
    pictures = sorted(whole.overlays.iterdir())
    assert [path.name for path in pictures] == [f'{n:06d}.png' for n in range(1, 6)]
    video = cv2.VideoCapture(str(whole.video))
    frames = 0
    while video.read()[0]:
        frames += 1
    assert frames == 5
    report = whole.report.read_text()
    assert report.count('src="data:image/jpeg;base64,') == 5
    assert report.count(f'<b>“{QUERY}”</b>') == 5
    assert 'http' not in report
    assert len(whole.timings.read_text().splitlines()) == 5


@pytest.mark.slow
def test_outputs_can_be_left_out(bag, parameters, tmp_path):
    folder = replay(bag, tmp_path / 'out', parameters, QUICK)
    assert sorted(path.name for path in folder.path.iterdir()) == [
        'replay.json',
        'results.jsonl',
        'timings.jsonl',
    ]
    replay_options = ReplayOptions(
        EACH.plan, namespace='/again', overlay_topic=True, without=frozenset({'originals'})
    )
    with AnyReader([replay(bag, tmp_path / 'out', parameters, replay_options).bag]) as reader:
        names = ('label_image', 'overlay', 'reasoning', 'result')
        shown = {topic.replace('/segzero', '/again') for topic in shown_topics()}
        assert set(reader.topics) == {f'/again/{name}' for name in names} | shown


@pytest.mark.parametrize('kind', KINDS)
def test_bags_of_every_kind_give_the_same_answers(kind, whole, parameters, tmp_path):
    path = Recording().camera([scene_frame(3)]).write(tmp_path / 'foreign', kind)
    (found,) = records(replay(path, tmp_path / 'out', parameters, QUICK))
    expected = records(whole)[0]
    assert found.answer.segments[0].pose == expected.answer.segments[0].pose
    assert found.answer.segments[0].mask.tolist() == expected.answer.segments[0].mask.tolist()


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['mcap', 'rosbag1'])
def test_a_compressed_camera_with_metres_is_replayed_and_copied(kind, parameters, tmp_path):
    frame, recording = scene_frame(3), Recording()
    recording.jpeg('/front/image_raw/compressed', frame, 0)
    recording.picture('/front/depth/image_rect', frame, 0, encoding='32FC1')
    recording.info('/front/camera_info', frame, 0)
    path = recording.write(tmp_path / 'foreign', kind)
    folder = replay(
        path, tmp_path / 'out', parameters, ReplayOptions(EACH.plan, without=frozenset({'video'}))
    )
    (record,) = records(folder)
    assert record.answer.status is Status.OK
    assert record.answer.segments[0].pose is not None
    with AnyReader([folder.bag]) as reader:
        assert reader.topics['/front/image_raw/compressed'].msgtype == COMPRESSED
        assert len(reader.topics) == 6 + len(shown_topics())


@pytest.mark.slow
def test_a_replayed_bag_can_be_replayed_again(whole, parameters, tmp_path):
    warnings: list[str] = []
    replay_options = ReplayOptions(EACH.plan, without=frozenset({'video', 'report'}))
    folder = replay(
        whole.bag, tmp_path / 'out', parameters, replay_options, ReplayListener(warnings.append)
    )
    assert folder.results.read_bytes() == whole.results.read_bytes()
    assert any('/segzero/result is replaced' in warning for warning in warnings)


def test_recorded_queries_are_asked_when_they_were_asked(parameters, tmp_path):
    recording = Recording().camera([scene_frame(3), scene_frame(4)], depth=False)
    recording.text('/segzero/query', 'too early', -1)
    recording.text('/segzero/query', QUERY, STEP // 2)
    recording.text('/segzero/query', '  ', STEP // 2 + 1)
    recording.text('/segzero/query', QUERY, STEP + 1)
    folder = replay(
        recording.write(tmp_path / 'live'), tmp_path / 'out', parameters, ReplayOptions()
    )
    early, first, empty, second = records(folder)
    assert (early.answer.status, early.stamp_ns) == (Status.NO_IMAGE, None)
    assert (first.stamp_ns, second.stamp_ns) == (START, START + STEP)
    assert (empty.answer.status, empty.answer.message) == (
        Status.REJECTED,
        'The query is empty; name what to look for, such as "the red cup".',
    )
    assert len(list(folder.overlays.iterdir())) == 4


def test_a_bag_without_queries_says_how_to_ask(bag, parameters, tmp_path):
    with pytest.raises(NothingToAsk, match='--query TEXT'):
        replay(bag, tmp_path / 'out', parameters)


def test_a_picture_that_cannot_be_decoded_is_an_answer_with_its_reason(parameters, tmp_path):
    recording = Recording().camera([scene_frame(3), scene_frame(4)], depth=False)
    image = next(entry for entry in recording.entries if entry.topic.endswith('image_raw'))
    image.fields['data'] = image.fields['data'][:1000]
    replay_options = ReplayOptions(
        QueryPlan(asks=(TimedQuery(QUERY, 'a', 0), TimedQuery(QUERY, 'b', STEP))),
        without=QUICK.without,
    )
    path = recording.write(tmp_path / 'cut')
    broken, good = records(replay(path, tmp_path / 'out', parameters, replay_options))
    assert broken.answer.status is Status.ERROR
    assert 'truncated' in broken.answer.message
    assert good.answer.status is Status.OK


def test_lines_of_results_are_as_documented(whole):
    line = json.loads(whole.results.read_text().splitlines()[0])
    segment = records(whole)[0].answer.segments[0]
    (found, *_) = line['objects']
    assert (line['query'], line['status'], line['image_size']) == (QUERY, 'OK', [240, 320])
    assert found['mask']['size'] == [240, 320]
    assert found['box'] == list(segment.box)
    width, height = found['mask_roi'][2:]
    assert (width, height) == segment.mask.shape[::-1]
    assert np.isfinite(found['pose']['position']).all()
