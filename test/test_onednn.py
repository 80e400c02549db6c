"""oneDNN is done without for a token, and never while somebody needs it."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

torch = pytest.importorskip('torch')

from segzero_ros import onednn


def enabled() -> bool:
    return bool(torch.backends.mkldnn.enabled)


def test_it_is_back_afterwards_also_after_an_error() -> None:
    assert enabled()
    with pytest.raises(ValueError), onednn.avoided():
        assert not enabled()
        raise ValueError
    assert enabled()


def test_whoever_needs_it_has_it() -> None:
    with onednn.needed(), onednn.needed(), onednn.avoided():
        assert enabled()
    with onednn.avoided():
        assert not enabled()


def test_an_encoder_that_begins_during_a_token_has_it_at_once() -> None:
    begun, ended, seen = threading.Event(), threading.Event(), []

    def encode() -> None:
        with onednn.needed():
            seen.append(enabled())
            begun.set()
            ended.wait(60)
            seen.append(enabled())

    thread = threading.Thread(target=encode)
    with onednn.avoided():
        assert not enabled()
        thread.start()
        assert begun.wait(60)
        assert enabled()
    with onednn.avoided():
        assert enabled()
    ended.set()
    thread.join()
    assert seen == [True, True]
    with onednn.avoided():
        assert not enabled()


def test_a_row_is_multiplied_as_well_without_it() -> None:
    torch.manual_seed(0)
    row, matrix = torch.randn(1, 512).bfloat16(), torch.randn(300, 512).bfloat16()
    exact = torch.nn.functional.linear(row.double(), matrix.double())
    errors = []
    for kernels in (onednn.needed, onednn.avoided):
        with kernels():
            found = torch.nn.functional.linear(row, matrix)
        errors.append(float((found.double() - exact).norm() / exact.norm()))
    assert max(errors) < 4e-3
    assert errors[1] < 1.1 * errors[0]


def test_where_torch_holds_the_switch_fast_everybody_goes_on_with_it() -> None:
    code = """
import torch
torch.backends.disable_global_flags()
from segzero_ros import onednn
with onednn.needed(), onednn.avoided():
    print(onednn.worth_avoiding(torch.bfloat16), torch.backends.mkldnn.enabled)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.split() == ['False', 'True'], done.stderr


def test_instructions_that_torch_cannot_tell_of_are_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, '_is_amx_tile_supported', raising=False)
    assert not onednn.supports('amx_tile')
    assert not onednn.has_tiles_for(torch.bfloat16)
