"""What the reasoners' tests share: a small checkpoint of the real architecture, made once."""

import importlib.util
from pathlib import Path
import sys

import pytest

MAKER = Path(__file__).resolve().parents[2] / 'scripts' / 'make_tiny_checkpoints.py'


@pytest.fixture(scope='session')
def make_tiny_checkpoints():
    """The module that makes small checkpoints and knows what they answer."""
    spec = importlib.util.spec_from_file_location('make_tiny_checkpoints', MAKER)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def tiny_qwen2_5_vl(make_tiny_checkpoints, tmp_path_factory) -> Path:
    """Folder of a small Qwen2.5-VL that knows the answers of `example_pairs`."""
    return make_tiny_checkpoints.make_tiny_qwen(tmp_path_factory.mktemp('tiny') / 'qwen2_5_vl')
