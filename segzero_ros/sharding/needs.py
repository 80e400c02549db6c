"""What models need of the machine that loads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segzero_ros.loading import ReasonerOptions, SegmenterOptions

# Models that can be loaded several times on one machine, and use one CPU each.
_LIGHT_REASONER, _LIGHT_SEGMENTER = 'attributes', 'grabcut'
_SERVED = 'openai'


@dataclass(frozen=True)
class Needs:
    """What one worker needs.

    Attributes:
        gpu: a GPU of its own, if there is any.
        alone: without a GPU, a machine of its own: its models use all CPUs.
        must_have_gpu: the models' device is a GPU by name.
    """

    gpu: bool = False
    alone: bool = False
    must_have_gpu: bool = False


def heavy_models(reasoner: str, segmenter: str) -> list[str]:
    """Return the models, by their backends, that one machine cannot load several times."""
    heavy = []
    if reasoner != _LIGHT_REASONER:
        heavy.append(f'reasoner {reasoner!r}')
    if segmenter != _LIGHT_SEGMENTER:
        heavy.append(f'segmenter {segmenter!r}')
    return heavy


def needs_of(reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> Needs:
    """Return what models need in the process that loads them; a served one needs nothing."""
    devices = []
    if reasoner.backend not in (_LIGHT_REASONER, _SERVED):
        devices.append(reasoner.device)
    if segmenter.backend != _LIGHT_SEGMENTER:
        devices.append(segmenter.device)
    named = any(device.startswith('cuda') for device in devices)
    return Needs(named or 'auto' in devices, bool(devices), named)


def local_models(reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> tuple[Path, ...]:
    """Return the checkpoints that are files or folders of this machine."""
    used = []
    if reasoner.backend not in (_LIGHT_REASONER, _SERVED):
        used.append(reasoner.model)
    if segmenter.backend != _LIGHT_SEGMENTER:
        used.append(segmenter.model)
    return tuple(path.absolute() for path in map(Path, used) if path.exists())


def absolute_if_path(name: str) -> str:
    """Return the absolute path of a local file or folder, and any other name as it is."""
    return str(Path(name).absolute()) if name and Path(name).exists() else name
