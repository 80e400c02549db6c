"""Reasoners in fewer bits: by torchao and bitsandbytes, while loading and before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('torchao')
pytest.importorskip('bitsandbytes')

from segzero_ros import onednn
from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.types import Frame, MalformedAnswer, Query, ReasonerUnavailable

WAYS = {'int8': 'Int8Tensor', 'fp8': 'Float8Tensor', 'bnb8': 'Int8Params', 'bnb4': 'Params4bit'}


def load(folder: Path, **options: Any) -> Any:
    options = {'device': 'cpu', 'max_new_tokens': 120} | options
    return load_reasoner(ReasonerOptions('transformers', str(folder), **options))


def text_of(reasoner: Any, pair: Any) -> str:
    try:
        answer: str = reasoner.reason(Frame(pair.image), Query(pair.query)).raw_answer
    except MalformedAnswer as error:
        answer = error.raw_answer
    return answer


@pytest.fixture(scope='module')
def pair(make_tiny_checkpoints: Any) -> Any:
    return make_tiny_checkpoints.example_pairs()[0]


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('architecture', ['tiny_qwen2_5_vl', 'tiny_qwen2_vl'])
def test_the_language_model_is_quantised_and_the_eyes_are_not(
    request: Any, pair: Any, tmp_path: Path, caplog: Any, architecture: str, way: str
) -> None:
    reasoner = load(request.getfixturevalue(architecture), quantization=way)
    kinds = {
        name: type(module.weight).__name__
        for name, module in reasoner._model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    layers = {kind for name, kind in kinds.items() if '.language_model.layers.' in name}
    others = {kind for name, kind in kinds.items() if '.language_model.layers.' not in name}
    assert (layers, others) == ({WAYS[way]}, {'Parameter'})
    assert way in reasoner.name
    reasoner._model.save_pretrained(tmp_path)
    reasoner._processor.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        answer = text_of(reasoner, pair)
    assert len(caplog.records) < 5, 'a line for each product'
    if way != 'bnb4':
        # Eight bits say what was learnt by heart; four may not, on so few weights.
        assert answer == pair.answer
    reasoner.close()
    again = load(tmp_path)
    assert text_of(again, pair) == answer
    again.close()
    with pytest.raises(
        ReasonerUnavailable, match=r'quantised already: leave reasoner\.quantization empty'
    ):
        load(tmp_path, quantization=way)


@pytest.mark.parametrize('way', ['int8', 'fp8'])
def test_quantised_weights_are_left_where_they_are_on_a_cpu_with_tiles(
    tiny_qwen2_5_vl: Path, pair: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, 'has_tiles_for', lambda _: True)
    monkeypatch.setattr(onednn, 'several_rows_are_cheap', lambda _: True)
    reasoner = load(tiny_qwen2_5_vl, quantization=way, dtype='bfloat16')
    assert reasoner._decoder._speculator is not None
    assert text_of(reasoner, pair) == pair.answer


def test_kernels_that_do_not_fit_the_model_are_found_while_loading(
    tiny_qwen2_vl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.nn import Linear4bit

    def refuse(*_: Any) -> None:
        raise AssertionError('N must be divisible by block_n')

    monkeypatch.setattr(Linear4bit, 'forward', refuse)
    with pytest.raises(ReasonerUnavailable) as caught:
        load(tiny_qwen2_vl, quantization='bnb4')
    said = str(caught.value)
    assert 'With bnb4 quantization the checkpoint in' in said
    assert 'AssertionError: N must be divisible by block_n. Take bnb8, int8, fp8 or none' in said
