"""What the segmenters' tests share: a SAM 2 of 7.7 million random parameters, made on the spot."""

import importlib.util
from pathlib import Path

import pytest

MAKER = Path(__file__).resolve().parents[2] / 'scripts' / 'make_tiny_sam2.py'


@pytest.fixture(scope='session')
def tiny_sam2(tmp_path_factory) -> Path:
    """Path of the small checkpoint; its configuration lies beside it with the suffix .yaml."""
    spec = importlib.util.spec_from_file_location('make_tiny_sam2', MAKER)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker.make_tiny_sam2(tmp_path_factory.mktemp('tiny_sam2'))
