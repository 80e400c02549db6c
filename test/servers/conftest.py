"""The questions that every real server is asked, and what the same weights answer in process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from demo_pairs import demo_pairs
import pytest
from real_servers import ask, environment, installed

from segzero_ros.cli.child_processes import choose_domain
from segzero_ros.loading import load_pipeline, ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Pipeline
from segzero_ros.types import Answer, Frame, Grounding, Query

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope='session', autouse=True)
def _installed() -> None:
    """Skip before anything is trained or loaded where no server is installed."""
    installed()


@pytest.fixture(scope='session')
def pairs(make_tiny_checkpoints: Any) -> list[Any]:
    """Pictures and questions that the small checkpoint knows, with its answers."""
    return make_tiny_checkpoints.example_pairs()


@pytest.fixture(scope='session')
def demo(make_tiny_checkpoints: Any) -> list[Any]:
    """Pictures and questions of the demo, with the answers that the small checkpoint knows."""
    return demo_pairs(make_tiny_checkpoints)


@pytest.fixture(scope='session')
def checkpoint(
    make_tiny_checkpoints: Any,
    pairs: list[Any],
    demo: list[Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Folder of a small Qwen2.5-VL that knows the answers of `pairs` and `demo`."""
    folder = tmp_path_factory.mktemp('taught') / 'qwen2_5_vl'
    made: Path = make_tiny_checkpoints.make_tiny_qwen(folder, pairs=[*pairs, *demo])
    return made


@pytest.fixture(scope='session')
def here(checkpoint: Path, tiny_sam2: Path) -> Iterator[Pipeline]:
    """The small checkpoint in this process, with what makes the masks."""
    made = load_pipeline(
        ReasonerOptions('transformers', str(checkpoint), device='cpu', dtype='float32'),
        SegmenterOptions('sam2', str(tiny_sam2), device='cpu'),
    )
    yield made
    made.reasoner.close()


@pytest.fixture(scope='session')
def in_process(here: Pipeline, pairs: list[Any]) -> list[Grounding]:
    """What the small checkpoint answers in this process."""
    return ask(here.reasoner, pairs)


@pytest.fixture(scope='session')
def demo_in_process(here: Pipeline, demo: list[Any]) -> list[Answer]:
    """What becomes of the demo's questions in this process."""
    return [here.answer(Frame(pair.image), Query(pair.query)) for pair in demo]


@pytest.fixture(scope='session')
def _graph() -> Iterator[None]:
    """Keep the nodes of these tests to this machine, in a ROS domain of their own."""
    chosen = {name: value for name, value in os.environ.items() if name != 'ROS_DOMAIN_ID'}
    choose_domain(chosen)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in chosen.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope='session')
def convert(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Give a function that makes a GGUF pair of a checkpoint, as docs/serving.md does."""

    def make(checkpoint: Path) -> Path:
        llama_cpp = environment('llama_cpp')
        folder = tmp_path_factory.mktemp('gguf')
        command = [sys.executable, str(HERE / 'convert.py'), str(llama_cpp / 'converter')]
        needs = {**os.environ, 'PYTHONPATH': str(llama_cpp / 'converter-needs')}
        for name, options in (('tiny.gguf', []), ('mmproj-tiny.gguf', ['--mmproj'])):
            words = [str(checkpoint), *options, '--outtype', 'f32', '--outfile']
            subprocess.run([*command, *words, str(folder / name)], check=True, env=needs)
        return folder / 'tiny.gguf'

    return make


@pytest.fixture(scope='session')
def gguf(convert: Callable[[Path], Path], checkpoint: Path) -> Path:
    """The small checkpoint as GGUF, its projector beside it."""
    return convert(checkpoint)
