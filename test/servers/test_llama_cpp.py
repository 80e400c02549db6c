"""llama.cpp's real server answers as the same weights do here; one that resizes is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import json
import logging
import os
from pathlib import Path
import shlex
import signal
from typing import Any
import urllib.error
import urllib.request

import pytest
from real_node import answers, gist, remote_node
from real_servers import ask, environment, PATIENCE, same, served

from segzero_ros import serving
from segzero_ros.reasoning.openai_reasoner import OpenAIReasoner
from segzero_ros.types import Answer, Frame, Query, ReasonerUnavailable

# Models are converted and loaded: minutes on a busy machine.
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope='module')
def llama_cpp() -> Path:
    return environment('llama_cpp')


@pytest.fixture(scope='module')
def url(llama_cpp: Path, gguf: Path) -> Any:
    with served('llama_cpp', llama_cpp, gguf, '--device', 'none') as url:
        yield url


def test_the_answers_are_those_of_the_same_weights_in_process(
    url: str, gguf: Path, pairs: list[Any], in_process: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reasoner = OpenAIReasoner(url, str(gguf), time_limit=PATIENCE)
    with caplog.at_level(logging.WARNING):
        found = ask(reasoner, pairs)
    reasoner.close()
    assert [grounding.raw_answer for grounding in found] == [pair.answer for pair in pairs]
    assert all(map(same, found, in_process))
    # Nobody had to say that the size of images cannot be checked.
    assert 'resizes' not in caplog.text
    assert 'destroyed' not in caplog.text


@pytest.mark.usefixtures('_graph')
def test_the_demos_questions_go_through_a_server_that_the_launch_file_starts(
    llama_cpp: Path,
    gguf: Path,
    demo: list[Any],
    demo_in_process: list[Answer],
    tiny_sam2: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('PATH', f'{llama_cpp / "bin"}{os.pathsep}{os.environ["PATH"]}')
    port = serving.free_port()
    # What serve:=llama_cpp puts before the node.
    before = shlex.split(serving.prefix('llama_cpp', str(gguf), port, '--device none'))
    url = serving.base_url(port)
    with remote_node(url, str(gguf), str(tiny_sam2), tmp_path, before) as (client, process):
        found = answers(client, demo)
        process.send_signal(signal.SIGINT)
        ended = process.wait(60)
    assert [answer.raw_answer for answer in found] == [pair.answer for pair in demo]
    assert list(map(gist, found)) == list(map(gist, demo_in_process))
    # Ctrl-C ends the node well, and the server with it.
    assert ended == 0
    with pytest.raises(urllib.error.URLError, match='refused'):
        urllib.request.urlopen(url.replace('/v1', '/health'))


def test_one_slot_has_the_whole_context(url: str) -> None:
    with urllib.request.urlopen(url.replace('/v1', '/props')) as reply:
        properties = json.load(reply)
    assert properties['total_slots'] == 1
    assert properties['default_generation_settings']['n_ctx'] == 4096


def test_two_robots_at_once_are_both_answered(
    url: str, gguf: Path, pairs: list[Any], in_process: Any
) -> None:
    def robot(index: int) -> bool:
        reasoner = OpenAIReasoner(url, str(gguf), time_limit=PATIENCE)
        try:
            return same(ask(reasoner, [pairs[index]])[0], in_process[index])
        finally:
            reasoner.close()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(robot, [0, 3])) == [True, True]


def test_constrain_answer_is_refused_by_what_the_server_says(url: str, gguf: Path) -> None:
    with pytest.raises(
        ReasonerUnavailable, match=r'Switch server\.constrain_answer off'
    ) as caught:
        OpenAIReasoner(url, str(gguf), constrain_answer=True)
    assert 'response_format' in str(caught.value)


@pytest.mark.parametrize(
    'flags',
    [['--image-min-tokens', '1024'], ['--image-max-tokens', '256']],
    ids=['enlarged', 'shrunk'],
)
def test_a_server_that_resizes_images_is_refused_with_the_flag_to_change(
    llama_cpp: Path, gguf: Path, pairs: list[Any], flags: list[str]
) -> None:
    with served('llama_cpp', llama_cpp, gguf, '--device', 'none', *flags) as url:
        reasoner = OpenAIReasoner(url, str(gguf), time_limit=PATIENCE)
        for pair in pairs[:2]:
            with pytest.raises(ReasonerUnavailable, match='resizes the image') as caught:
                reasoner.reason(Frame(pair.image), Query(pair.query))
            assert '--image-min-tokens' in str(caught.value)
        reasoner.close()


def test_a_bound_that_leaves_the_image_alone_is_none(
    llama_cpp: Path, gguf: Path, pairs: list[Any], in_process: Any
) -> None:
    flags = ['--image-min-tokens', '900', '--image-max-tokens', '1280']
    with served('llama_cpp', llama_cpp, gguf, '--device', 'none', *flags) as url:
        reasoner = OpenAIReasoner(url, str(gguf), time_limit=PATIENCE)
        assert same(ask(reasoner, pairs[:1])[0], in_process[0])
        reasoner.close()
