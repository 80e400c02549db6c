"""Which GPU a name means and what is free on it: with torch.cuda as other machines answer it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip('torch')

from segzero_ros import gpus
from segzero_ros.reasoning import devices, memory
from segzero_ros.reasoning.base import Companion
from segzero_ros.reasoning.checkpoints import Checkpoint, Tensor
from segzero_ros.segmentation import torch_model
from segzero_ros.segmentation.sam2_checkpoint import bytes_needed
from segzero_ros.types import ReasonerUnavailable, SegmenterUnavailable

GIB = 2**30


@dataclass
class Gpu:
    """A GPU as torch tells of it; memory in GiB."""

    free: float = 20.0
    total: float = 24.0
    name: str = 'NVIDIA RTX A5000'
    capability: tuple[int, int] = (8, 6)
    integrated: int = 0
    reserved: float = 0.0
    allocated: float = 0.0


@dataclass
class Machine:
    """What stands in for torch.cuda, and which GPUs' memory was asked for."""

    gpus: Sequence[Gpu]
    asked: list[int] = field(default_factory=list)

    def mem_get_info(self, index: int) -> tuple[int, int]:
        self.asked.append(index)
        return int(self.gpus[index].free * GIB), int(self.gpus[index].total * GIB)

    def get_device_properties(self, index: int) -> Any:
        gpu = self.gpus[index]
        return SimpleNamespace(name=gpu.name, is_integrated=gpu.integrated)


Make = Callable[..., Machine]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Make:
    def make(*cards: Gpu) -> Machine:
        made = Machine(cards)
        answers: dict[str, Any] = {
            'is_available': lambda: bool(cards),
            'is_initialized': lambda: bool(cards),
            'device_count': lambda: len(cards),
            'mem_get_info': made.mem_get_info,
            'get_device_properties': made.get_device_properties,
            'get_device_name': lambda index: cards[index].name,
            'get_device_capability': lambda index: cards[index].capability,
            'memory_reserved': lambda index: int(cards[index].reserved * GIB),
            'memory_allocated': lambda index: int(cards[index].allocated * GIB),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        return made

    return make


def meminfo(place: Path, free: float, available: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel say this of its memory, in GiB."""
    path = place / 'meminfo'
    path.write_text(
        f'MemTotal:       127600640 kB\nMemFree:        {int(free * 2**20)} kB\n'
        f'MemAvailable:   {int(available * 2**20)} kB\nBuffers:           1234 kB\n'
    )
    monkeypatch.setattr(gpus, '_MEMINFO', path)


class TestMemory:
    # A GB10 after 60 GB were written: CUDA's free memory is the kernel's MemFree.
    # Recorded in unslothai/unsloth pull request 10704.
    @pytest.mark.parametrize(
        'gpu',
        [
            Gpu(41.52, 121.69, 'NVIDIA GB10', (12, 1), integrated=1),
            Gpu(41.52, 121.69, 'NVIDIA GB10', (12, 1), integrated=0),
            Gpu(41.52, 121.69, 'Orin', (8, 7), integrated=0),
            Gpu(41.52, 121.69, 'NVIDIA Thor', (11, 0), integrated=1),
        ],
    )
    def test_page_cache_counts_as_free_where_the_memory_is_shared(
        self, gpu: Gpu, machine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine(gpu)
        meminfo(tmp_path, 41.52, 115.65, monkeypatch)
        found = gpus.memory_of(0)
        assert found.free / GIB == pytest.approx(115.65, abs=0.01)
        assert found.total / GIB == pytest.approx(121.69, abs=0.01)

    @pytest.mark.parametrize('name', ['NVIDIA GB102', 'NVIDIA GB100', 'Quadro T1000'])
    def test_a_card_with_memory_of_its_own_has_what_cuda_says(
        self, name: str, machine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine(Gpu(2.0, 24.0, name))
        meminfo(tmp_path, 10.0, 200.0, monkeypatch)
        assert gpus.memory_of(0).free == 2 * GIB

    def test_no_more_is_free_than_there_is(
        self, machine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine(Gpu(1.0, 16.0, 'Orin', integrated=1))
        meminfo(tmp_path, 1.0, 30.0, monkeypatch)
        assert gpus.memory_of(0).free == 16 * GIB

    def test_a_model_fits_into_what_its_checkpoints_page_cache_takes(
        self, machine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine(Gpu(4.0, 30.0, 'Orin', (8, 7), integrated=1))
        meminfo(tmp_path, 4.0, 26.0, monkeypatch)
        assert place('auto', 17.0) == {'': 'cuda:0'}
        meminfo(tmp_path, 4.0, 8.0, monkeypatch)
        with pytest.raises(ReasonerUnavailable, match=r'cuda:0 \(Orin\) has 8\.0 GiB free'):
            place('auto', 17.0)

    def test_this_machine_says_how_much_memory_is_available(self) -> None:
        assert 0 < gpus.free_memory() < 2**50

    def test_diagnostics_tell_of_the_gpu_that_is_used_and_touch_no_other(
        self, machine: Make
    ) -> None:
        asked = machine(Gpu(1.0), Gpu(5.0, reserved=15.0, allocated=12.0), Gpu(2.0)).asked
        found = gpus.gpu_memory()
        assert found == gpus.GpuMemory(8 * GIB, 24 * GIB, 'cuda:1')
        assert asked == [1]

    def test_of_several_in_use_diagnostics_tell_of_the_fullest(self, machine: Make) -> None:
        machine(Gpu(3.0, reserved=1.0, allocated=1.0), Gpu(1.0, 4.0, reserved=2.0, allocated=2.0))
        found = gpus.gpu_memory()
        assert found is not None and found.device == 'cuda:0'

    def test_without_a_gpu_diagnostics_tell_of_none(self, machine: Make) -> None:
        machine()
        assert gpus.gpu_memory() is None
        machine(Gpu())
        assert gpus.gpu_memory() is None


class TestChoosing:
    def test_a_named_gpu_is_that_gpu(self, machine: Make) -> None:
        machine(Gpu(20.0), Gpu(3.0))
        assert gpus.find_gpu('cuda:1') == 1
        assert str(torch_model.choose_device('cuda:1')) == 'cuda:1'
        assert place('cuda:1', 1.0) == {'': 'cuda:1'}

    @pytest.mark.parametrize('name', ['auto', 'cuda'])
    def test_of_several_the_freest_is_taken(self, name: str, machine: Make) -> None:
        machine(Gpu(3.0), Gpu(20.0), Gpu(7.0))
        assert str(torch_model.choose_device(name)) == 'cuda:1'
        assert place(name, 1.0) == {'': 'cuda:1'}

    @pytest.mark.parametrize(
        ('count', 'said'), [(1, r'finds one GPU, cuda:0'), (2, r'finds 2 GPUs, cuda:0 to cuda:1')]
    )
    def test_an_index_out_of_range_says_how_many_there_are(
        self, count: int, said: str, machine: Make
    ) -> None:
        machine(*count * [Gpu()])
        with pytest.raises(ReasonerUnavailable, match=rf'There is no cuda:7: torch {said}'):
            place('cuda:7', 1.0)
        with pytest.raises(ReasonerUnavailable, match=r'There is no cuda:7'):
            devices.choose_dtype('auto', 'cuda:7', checkpoint(1.0))
        with pytest.raises(SegmenterUnavailable, match=rf'cuda:7: torch finds {count} GPUs'):
            torch_model.choose_device('cuda:7')

    def test_hidden_gpus_are_a_reason(
        self, machine: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine(Gpu())
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3')
        with pytest.raises(gpus.NoSuchGpu, match='CUDA_VISIBLE_DEVICES is 3'):
            gpus.find_gpu('cuda:3')

    @pytest.mark.parametrize('name', ['cuda:-1', 'cuda:one', 'mps', 'teapot', ''])
    def test_what_is_no_device_is_refused(self, name: str, machine: Make) -> None:
        machine(Gpu())
        with pytest.raises(SegmenterUnavailable, match='There is no device'):
            torch_model.choose_device(name)
        with pytest.raises(ReasonerUnavailable, match='device is auto, cpu'):
            place(name, 1.0)


class TestNumbers:
    @pytest.mark.parametrize(
        ('capability', 'chosen'),
        [
            ((6, 1), torch.float16),
            ((7, 5), torch.float16),
            ((8, 0), torch.bfloat16),
            ((12, 1), torch.bfloat16),
        ],
    )
    def test_before_ampere_auto_is_float16(
        self, capability: tuple[int, int], chosen: Any, machine: Make
    ) -> None:
        machine(Gpu(capability=(9, 0)), Gpu(capability=capability))
        assert devices.choose_dtype('auto', 'cuda:1', checkpoint(1.0)) == chosen
        assert torch_model.choose_dtype('auto', torch.device('cuda:1')) == chosen

    def test_what_is_named_is_taken_on_any_gpu(self, machine: Make) -> None:
        machine(Gpu(capability=(7, 5)))
        assert devices.choose_dtype('bfloat16', 'cuda', checkpoint(1.0)) == torch.bfloat16
        cuda = torch.device('cuda:0')
        for name in ('bfloat16', 'float16', 'float32'):
            assert torch_model.choose_dtype(name, cuda) == getattr(torch, name)

    def test_a_checkpoint_of_other_numbers_keeps_them(self, machine: Make) -> None:
        machine(Gpu(capability=(7, 5)))
        kept = devices.choose_dtype('auto', 'cuda', checkpoint(1.0, dtype='float32'))
        assert kept == torch.float32


class TestTogether:
    """A 7B with SAM 2: 16 GiB and 2 GiB."""

    def test_a_segmenter_on_the_same_gpu_counts(self, machine: Make) -> None:
        machine(Gpu(18.5))
        assert place('auto', 16.0, Companion('auto', 2 * GIB)) == {'': 'cuda:0'}
        machine(Gpu(17.0))
        with pytest.raises(ReasonerUnavailable, match=r'2\.0 the segmenter.*17\.0 GiB free'):
            place('auto', 16.0, Companion('auto', 2 * GIB))
        assert place('auto', 16.0, Companion('cpu', 2 * GIB)) == {'': 'cuda:0'}

    def test_masks_go_to_the_freer_gpu_and_do_not_count_on_the_other(self, machine: Make) -> None:
        machine(Gpu(17.0), Gpu(4.0))
        assert place('auto', 16.0, Companion('auto', 2 * GIB)) == {'': 'cuda:0'}
        assert place('auto', 16.0, Companion('cuda:1', 2 * GIB)) == {'': 'cuda:0'}
        with pytest.raises(ReasonerUnavailable, match='the segmenter'):
            place('cuda:0', 16.0, Companion('cuda:0', 2 * GIB))

    def test_a_segmenter_on_the_cpu_counts_where_the_gpu_has_its_memory(
        self, machine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine(Gpu(17.0, 30.0, 'Orin', (8, 7), integrated=1))
        meminfo(tmp_path, 17.0, 17.0, monkeypatch)
        with pytest.raises(ReasonerUnavailable, match='the segmenter'):
            place('auto', 16.0, Companion('cpu', 2 * GIB))

    def test_both_on_the_cpu_count(self, machine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        machine()
        monkeypatch.setattr(devices, 'free_memory', lambda: 17 * GIB)
        assert place('cpu', 16.0) == {'': 'cpu'}
        with pytest.raises(ReasonerUnavailable, match=r'2\.0 the segmenter'):
            place('cpu', 16.0, Companion('auto', 2 * GIB))

    @pytest.mark.parametrize(
        ('model', 'gib'),
        [
            ('facebook/sam2-hiera-large', 1.8),
            ('facebook/sam2.1-hiera-tiny', 1.15),
            ('nobody/knows', 0.0),
        ],
    )
    def test_what_sam2_takes_is_known_before_it_is_here(self, model: str, gib: float) -> None:
        assert bytes_needed(model) / GIB == pytest.approx(gib, abs=0.1)

    def test_a_file_of_weights_tells_its_size(self, tmp_path: Path) -> None:
        (tmp_path / 'mine.pt').write_bytes(bytes(5000))
        assert bytes_needed(str(tmp_path)) == bytes_needed(str(tmp_path / 'mine.pt'))
        assert bytes_needed(str(tmp_path)) == 5000 + GIB


class TestCompiling:
    """What torch.compile needs on a GPU; whatever is missing, decoding goes on without."""

    @pytest.fixture
    def ready(self, machine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        machine(Gpu(), Gpu(capability=(6, 1)))
        for name in ('gcc', 'clang'):
            (tmp_path / name).write_text('#!/bin/sh\n')
            (tmp_path / name).chmod(0o755)
        (tmp_path / 'Python.h').write_text('')
        monkeypatch.setenv('PATH', str(tmp_path))
        monkeypatch.delenv('CC', raising=False)
        monkeypatch.setattr('sysconfig.get_path', lambda *_: str(tmp_path))
        monkeypatch.setattr(devices, 'find_spec', lambda _: object())
        return tmp_path

    def test_with_all_of_it_decoding_is_compiled(self, ready: Path) -> None:
        assert devices.missing_to_compile(0) == ''

    def test_either_compiler_will_do(self, ready: Path) -> None:
        (ready / 'gcc').unlink()
        assert devices.missing_to_compile(0) == ''
        (ready / 'clang').unlink()
        assert 'no C compiler, gcc or clang' in devices.missing_to_compile(0)

    def test_a_compiler_that_is_named_has_to_be_there(
        self, ready: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv('CC', 'icc')
        assert 'no C compiler, icc' in devices.missing_to_compile(0)

    def test_pythons_headers_are_needed(self, ready: Path) -> None:
        (ready / 'Python.h').unlink()
        assert 'Python.h is not in' in devices.missing_to_compile(0)

    def test_triton_is_needed(self, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, 'find_spec', lambda _: None)
        assert 'triton is not installed' in devices.missing_to_compile(0)

    def test_a_gpu_before_volta_has_no_kernels(self, ready: Path) -> None:
        assert 'as old as this one' in devices.missing_to_compile(1)

    def test_it_is_said_in_one_line_and_gone_on_without(
        self, ready: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (ready / 'Python.h').unlink()
        needs = memory.Needs(GIB, 0, 0)
        made = devices.place('auto', 'it', checkpoint(1.0), needs, '')
        assert made == devices.Placement({'': 'cuda:0'}, compile=False)
        (record,) = caplog.records
        assert record.getMessage().startswith('Decoding is not compiled, which makes it slower: ')


def checkpoint(gib: float, **config: Any) -> Checkpoint:
    """Return a checkpoint of 16-bit weights of this size."""
    size = int(gib * GIB)
    return Checkpoint(Path('it'), config, (Tensor('head', size // 2, size),))


def place(device: str, gib: float, beside: Companion | None = None) -> Any:
    """Return where a model that takes so much goes."""
    needs = memory.Needs(int(gib * GIB), 0, 0)
    return devices.place(device, 'it', checkpoint(gib), needs, 'bnb4', beside).device_map
