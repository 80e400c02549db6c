"""`segzero replay --clouds`: the node's clouds in the new bag."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import Recording, scene_frame
from rosbags.highlevel import AnyReader

from segzero_ros.config import read_profile
from segzero_ros.conversions.point_cloud import POINT
from segzero_ros.replay.output import OutputError, ReplayOutput
from segzero_ros.replay.query_file import QueryPlan
from segzero_ros.replay.replay import replay, ReplayListener, ReplayOptions
from segzero_ros.spatial.clouds import cloud_of

OPTIONS = ReplayOptions(
    QueryPlan(texts=('the largest object',)),
    clouds=True,
    without=frozenset({'video', 'report', 'overlays'}),
)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [scene_frame(3), scene_frame(4)]
    return Recording().camera(frames).write(tmp_path_factory.mktemp('bags') / 'table')


@pytest.fixture(scope='module')
def whole(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> ReplayOutput:
    folder = tmp_path_factory.mktemp('whole') / 'out'
    return replay(bag, folder, read_profile('offline'), OPTIONS)


def digest(folder: ReplayOutput) -> list[str]:
    return [hashlib.sha256(each.read_bytes()).hexdigest() for each in sorted(folder.bag.iterdir())]


def messages(folder: ReplayOutput, topic: str) -> list[Any]:
    with AnyReader([folder.bag]) as reader:
        connections = [each for each in reader.connections if each.topic == f'/segzero/{topic}']
        return [
            reader.deserialize(data, connection.msgtype)
            for connection, _, data in reader.messages(connections)
        ]


def test_clouds_are_those_of_each_answers_frame_and_objects(whole: ReplayOutput) -> None:
    labels, clouds, alone = (
        messages(whole, name) for name in ('label_image', 'points', 'object_points')
    )
    assert len(labels) == len(clouds) == len(alone) == 2
    records = list(whole.records())
    for seed, record, label, cloud, objects in zip(
        (3, 4), records, labels, clouds, alone, strict=True
    ):
        assert repr(cloud.header) == repr(objects.header) == repr(label.header)
        assert [field.name for field in cloud.fields] == ['x', 'y', 'z', 'rgb', 'object']
        points = cloud.data.view(POINT).reshape(cloud.height, cloud.width)
        frame = scene_frame(seed)
        expected = cloud_of(frame, record.answer.segments)
        assert expected is not None
        np.testing.assert_array_equal(points['object'], expected.object_ids)
        np.testing.assert_allclose(points['z'], frame.depth, atol=0.001)
        inside = label.data.view('<u2').reshape(points.shape)
        held = points['object'] > 0
        assert held.any()
        assert (inside[held] == points['object'][held]).all()
        raw = cloud.data.view('V20').reshape(points.shape)
        assert objects.data.tobytes() == raw[held].tobytes()
        assert (objects.width, objects.is_dense) == (held.sum(), True)
    assert not whole.clouds.exists()


@pytest.mark.slow
def test_the_same_bytes_after_an_interruption_and_from_workers(
    bag: Path, whole: ReplayOutput, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    parameters = read_profile('offline')
    with pytest.raises(KeyboardInterrupt):
        replay(bag, tmp_path / 'a', parameters, OPTIONS, ReplayListener(on_answer=interrupt))
    assert digest(replay(bag, tmp_path / 'a', parameters, OPTIONS)) == digest(whole)
    options = ReplayOptions(OPTIONS.plan, clouds=True, without=OPTIONS.without, workers=2)
    assert digest(replay(bag, tmp_path / 'b', parameters, options)) == digest(whole)


def test_an_interrupted_replay_without_clouds_is_not_continued_with_them(
    bag: Path, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    parameters = read_profile('offline')
    options = ReplayOptions(OPTIONS.plan, without=OPTIONS.without)
    with pytest.raises(KeyboardInterrupt):
        replay(bag, tmp_path / 'out', parameters, options, ReplayListener(on_answer=interrupt))
    with pytest.raises(OutputError, match='another clouds'):
        replay(bag, tmp_path / 'out', parameters, OPTIONS)


@pytest.mark.slow
def test_a_frame_without_depth_has_no_cloud(tmp_path: Path) -> None:
    path = Recording().camera([scene_frame(3)], depth=False).write(tmp_path / 'flat')
    folder = replay(path, tmp_path / 'out', read_profile('offline'), OPTIONS)
    assert not messages(folder, 'points')
    assert len(messages(folder, 'result')) == 1
