"""The questions that every real server is asked, and what the same weights answer in process."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest
from real_servers import ask, environment, installed, PATIENCE

from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.types import Grounding

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope='session', autouse=True)
def _installed() -> None:
    """Skip before anything is trained or loaded where no server is installed."""
    installed()


@pytest.fixture(scope='session')
def pairs(make_tiny_checkpoints: Any) -> list[Any]:
    """Pictures and questions that the small checkpoint knows, with its answers."""
    return make_tiny_checkpoints.example_pairs()


def answered_in_process(checkpoint: Path, pairs: list[Any]) -> list[Grounding]:
    options = ReasonerOptions(
        'transformers', str(checkpoint), device='cpu', dtype='float32', time_limit=PATIENCE
    )
    reasoner = load_reasoner(options)
    try:
        return ask(reasoner, pairs)
    finally:
        reasoner.close()


@pytest.fixture(scope='session')
def in_process(tiny_qwen2_5_vl: Path, pairs: list[Any]) -> list[Grounding]:
    """What the small checkpoint answers in this process."""
    return answered_in_process(tiny_qwen2_5_vl, pairs)


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
def gguf(convert: Callable[[Path], Path], tiny_qwen2_5_vl: Path) -> Path:
    """The small Qwen2.5-VL as GGUF, its projector beside it."""
    return convert(tiny_qwen2_5_vl)
