"""Switch parts of the reasoner's fast path off, to measure what each is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import transformers
from transformers.cache_utils import DynamicLayer


def _fused_step() -> None:
    from segzero_ros.reasoning import decoding

    decoding.fused_decode_step = lambda _: None


def _concatenated_weights() -> None:
    from segzero_ros.reasoning import fused_decode

    fused_decode._concatenate = fused_decode._weights


def _packed_weights() -> None:
    from segzero_ros.reasoning import packed_linear

    packed_linear.pack = lambda *_: None


def _prompt_lookup() -> None:
    from segzero_ros.reasoning.prompt_lookup import NgramSpeculator

    NgramSpeculator.draft = lambda _: []  # type: ignore[method-assign]


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scale: float
) -> torch.Tensor:
    """Attend by torch alone, in place of `gqa_decode_attention.attend_grouped`."""
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=True
    )
    return attended.transpose(1, 2)


def growing_cache(layers: int) -> Any:
    """Return transformers' own cache, in place of `preallocated_cache`."""
    return transformers.Cache(layers=[DynamicLayer() for _ in range(layers)])


def _packed_attention() -> None:
    from segzero_ros.reasoning import fused_decode, gqa_decode_attention

    for module in (fused_decode, gqa_decode_attention):
        module.attend_grouped = plain_attention  # type: ignore[attr-defined]


def _preallocated_cache() -> None:
    from segzero_ros.reasoning import decoding, fused_decode

    for module in (decoding, fused_decode):
        module.preallocated_cache = growing_cache  # type: ignore[attr-defined]


def _batched_windows() -> None:
    from segzero_ros.reasoning import fast_path

    fast_path.attend_by_window_size = lambda _: 0


def _patch_product() -> None:
    from segzero_ros.reasoning import fast_path

    fast_path.embed_patches_by_matmul = lambda _: None


def _onednn() -> None:
    from segzero_ros import onednn

    onednn.worth_avoiding = lambda _: False
    onednn.has_tiles_for = lambda _: False
    onednn.avoided = nullcontext  # type: ignore[assignment]


# `fast_path` is the reasoner's own option, advanced.fast_decoding.
PARTS: dict[str, Callable[[], None]] = {
    'fast_path': lambda: None,
    'fused_step': _fused_step,
    'concatenated_weights': _concatenated_weights,
    'packed_weights': _packed_weights,
    'prompt_lookup': _prompt_lookup,
    'packed_attention': _packed_attention,
    'preallocated_cache': _preallocated_cache,
    'batched_windows': _batched_windows,
    'patch_product': _patch_product,
    'onednn': _onednn,
}


def switch_off(names: Sequence[str]) -> None:
    """Switch parts off in this process, before a reasoner is loaded."""
    for name in names:
        PARTS[name]()
