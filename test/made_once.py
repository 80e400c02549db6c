"""Small checkpoints and messages are made once and kept under build/, for all workers and runs."""

from collections.abc import Callable
import fcntl
from functools import cache
import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
import shutil
import sys

ROOT = Path(__file__).resolve().parent.parent
_KEPT = ROOT / 'build' / 'made_once'
_LIBRARIES = ('numpy', 'torch', 'torchvision', 'transformers', 'tokenizers', 'sam2', 'safetensors')


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder of this name; it is filled unless the same code has filled it before.

    Args:
        name: of the folder.
        make: fills a folder that is not there yet. If it fails, nothing is kept.

    Returns:
        The folder. Who wants to change something in it copies it first.
    """
    folder = _KEPT / _state() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f'{name}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_name(f'{name}.unfinished')
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
    return folder


@cache
def _state() -> str:
    """Hash what checkpoints depend on: our code that makes them, and the libraries' versions."""
    code = hashlib.sha256(sys.version.encode())
    for library in _LIBRARIES:
        try:
            code.update(f'{library} {version(library)}\n'.encode())
        except PackageNotFoundError:
            continue
    sources = [
        *(ROOT / 'scripts').glob('make_tiny_*.py'),
        *(ROOT / 'segzero_ros' / 'reasoning').rglob('*.py'),
        *(ROOT / 'test').rglob('conftest.py'),
    ]
    for source in sorted(sources):
        code.update(source.read_bytes())
    return code.hexdigest()[:16]
