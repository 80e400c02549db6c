"""Both models are loaded by one function, which leaves neither behind without the other."""

from __future__ import annotations

from typing import Any

import pytest

from segzero_ros import loading, profiles
from segzero_ros.loading import load_pipeline, ReasonerOptions, SegmenterOptions
from segzero_ros.reasoning.attribute_reasoner import AttributeReasoner
from segzero_ros.reasoning.base import Companion
from segzero_ros.types import ReasonerUnavailable, SegmenterUnavailable


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the reasoners that were closed."""
    names: list[str] = []
    monkeypatch.setattr(AttributeReasoner, 'close', lambda self: names.append(self.name))
    return names


@pytest.mark.parametrize(
    'error',
    [
        SegmenterUnavailable('no weights'),
        RuntimeError('CUDA error'),
        MemoryError(),
        KeyboardInterrupt(),
    ],
)
@pytest.mark.parametrize('through_a_profile', [False, True])
def test_a_reasoner_is_closed_when_the_segmenter_cannot_be_had(
    error: BaseException,
    through_a_profile: bool,
    closed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: SegmenterOptions) -> Any:
        raise error

    monkeypatch.setattr(loading, 'load_segmenter', fail)
    with pytest.raises(type(error)):
        if through_a_profile:
            profiles.load_pipeline(profiles.read_profile('offline'))
        else:
            load_pipeline(ReasonerOptions(), SegmenterOptions())
    assert closed == ['attributes']


def test_node_and_command_line_load_by_the_same_function() -> None:
    node = pytest.importorskip('segzero_ros.ros.perception.node')
    assert node.load_pipeline is load_pipeline
    pipeline = profiles.load_pipeline(profiles.read_profile('offline'))
    assert (pipeline.reasoner.name, pipeline.segmenter.name) == ('attributes', 'grabcut')
    pipeline.close()


@pytest.mark.parametrize(
    ('segmenter', 'room'),
    [
        (SegmenterOptions('grabcut'), None),
        (SegmenterOptions('sam2', device='cuda:1'), 'cuda:1'),
    ],
)
def test_a_reasoner_is_told_what_comes_beside_it(
    segmenter: SegmenterOptions, room: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Companion | None] = []

    def load(_: ReasonerOptions, beside: Companion | None = None) -> Any:
        told.append(beside)
        raise ReasonerUnavailable('enough')

    monkeypatch.setattr(loading, 'load_reasoner', load)
    with pytest.raises(ReasonerUnavailable, match='enough'):
        load_pipeline(ReasonerOptions('transformers'), segmenter)
    (beside,) = told
    assert (beside and beside.device) == room
    assert beside is None or beside.size > 10**9
