"""Both models are loaded by one function, which leaves neither behind without the other."""

from __future__ import annotations

from typing import Any

import pytest

from segzero_ros import config, loading
from segzero_ros.loading import (
    load_pipeline,
    load_segmenter,
    ReasonerOptions,
    SAM3,
    SegmenterOptions,
)
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
            config.load_pipeline(config.read_profile('offline'))
        else:
            load_pipeline(ReasonerOptions(), SegmenterOptions())
    assert closed == ['attributes']


def test_node_and_command_line_load_by_the_same_function() -> None:
    node = pytest.importorskip('segzero_ros.ros.perception.node')
    assert node.load_pipeline is load_pipeline
    pipeline = config.load_pipeline(config.read_profile('offline'))
    assert (pipeline.reasoner.name, pipeline.segmenter.name) == ('attributes', 'grabcut')
    pipeline.close()


@pytest.mark.parametrize(
    ('segmenter', 'room'),
    [
        (SegmenterOptions('grabcut'), None),
        (SegmenterOptions('sam2', device='cuda:1'), 'cuda:1'),
        (SegmenterOptions('sam3', 'facebook/sam3', device='cuda:1'), 'cuda:1'),
        (SegmenterOptions('sam3_fast_lane', 'facebook/sam3', device='cpu'), 'cpu'),
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


def test_every_segmenter_has_a_name_and_another_is_told_the_names() -> None:
    with pytest.raises(SegmenterUnavailable, match='sam2, sam3, sam3_fast_lane, grabcut'):
        load_segmenter(SegmenterOptions('sam1'))
    for backend in SAM3:
        # The checkpoint of the profiles is SAM 2's: which one to set is said in a sentence.
        with pytest.raises(SegmenterUnavailable, match=r'set segmenter\.model to facebook/sam3'):
            load_segmenter(SegmenterOptions(backend, device='cpu', offline=True))
