"""vLLM's real server answers as the same weights do here, and holds an answer to its format."""

from __future__ import annotations

from dataclasses import replace
import logging
from pathlib import Path
import re
from typing import Any

import pytest
from real_node import answers, gist, remote_node
from real_servers import ask, environment, PATIENCE, same, served

from segzero_ros.reasoning.openai_reasoner import OpenAIReasoner
from segzero_ros.types import Answer, Frame, MalformedAnswer, Query, ReasonerUnavailable

# vLLM starts in minutes on a processor.
pytestmark = pytest.mark.timeout(3600)
# As the weights are; vLLM would take bfloat16, compile the model and nearly all memory.
FLAGS = ('--dtype', 'float32', '--enforce-eager', '--gpu-memory-utilization', '0.2')


@pytest.fixture(scope='module')
def vllm() -> Path:
    return environment('vllm')


@pytest.fixture(scope='module')
def url(vllm: Path, checkpoint: Path) -> Any:
    with served('vllm', vllm, checkpoint, *FLAGS) as url:
        yield url


def test_the_answers_are_those_of_the_same_weights_in_process(
    url: str,
    checkpoint: Path,
    pairs: list[Any],
    in_process: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reasoner = OpenAIReasoner(url, str(checkpoint), time_limit=PATIENCE)
    with caplog.at_level(logging.WARNING):
        found = ask(reasoner, pairs)
    reasoner.close()
    assert [grounding.raw_answer for grounding in found] == [pair.answer for pair in pairs]
    assert all(map(same, found, in_process))
    assert 'resizes' not in caplog.text


@pytest.mark.usefixtures('_graph')
def test_the_demos_questions_end_at_the_node_as_the_same_weights_have_them_in_process(
    url: str,
    checkpoint: Path,
    demo: list[Any],
    demo_in_process: list[Answer],
    tiny_sam2: Path,
    tmp_path: Path,
) -> None:
    with remote_node(url, str(checkpoint), str(tiny_sam2), tmp_path) as (client, _):
        found = answers(client, demo)
    assert [answer.raw_answer for answer in found] == [pair.answer for pair in demo]
    assert list(map(gist, found)) == list(map(gist, demo_in_process))


def test_constrained_answers_that_are_well_formed_stay_as_they_are(
    url: str, checkpoint: Path, pairs: list[Any], in_process: Any
) -> None:
    reasoner = OpenAIReasoner(url, str(checkpoint), constrain_answer=True, time_limit=PATIENCE)
    assert all(map(same, ask(reasoner, pairs), in_process))
    reasoner.close()


def test_a_model_that_would_answer_in_words_is_held_to_the_format(
    vllm: Path, make_tiny_checkpoints: Any, pairs: list[Any], tmp_path: Path
) -> None:
    # Words that begin in a token of their own: `>It` is one, and a model that knows no other
    # way to write `>` is lost where the format forbids it.
    free = replace(pairs[0], answer='<think>I see it.</think>\nIt stands on the left.')
    stubborn = make_tiny_checkpoints.make_tiny_qwen(tmp_path / 'stubborn', pairs=[free])
    texts = []
    with served('vllm', vllm, stubborn, *FLAGS) as url:
        for constrain in (False, True):
            reasoner = OpenAIReasoner(
                url,
                str(stubborn),
                constrain_answer=constrain,
                max_new_tokens=200,
                time_limit=PATIENCE,
            )
            try:
                found = reasoner.reason(Frame(free.image), Query(free.query))
                texts.append(found.raw_answer)
            except MalformedAnswer as error:
                # Of a model that knows no boxes the list may have no end.
                texts.append(error.raw_answer)
            reasoner.close()
    assert texts[0] == free.answer
    assert re.match(r'<think>I see it\.</think>[ \n]{0,2}<answer>\[', texts[1])


def test_a_server_that_resizes_images_is_refused_with_the_flag_to_change(
    vllm: Path, checkpoint: Path, pairs: list[Any]
) -> None:
    bounds = '{"size": {"shortest_edge": 3136, "longest_edge": 401408}}'
    flags = (*FLAGS, '--mm-processor-kwargs', bounds)
    with served('vllm', vllm, checkpoint, *flags) as url:
        reasoner = OpenAIReasoner(url, str(checkpoint), time_limit=PATIENCE)
        with pytest.raises(ReasonerUnavailable, match='resizes the image') as caught:
            reasoner.reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert '--mm-processor-kwargs' in str(caught.value)
        reasoner.close()
