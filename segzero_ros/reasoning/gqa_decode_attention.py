"""Grouped-query attention for one or a few new tokens.

Under grouped-query attention several query heads share one key and value head. torch's kernels
read keys and values once per query head: on a CPU at 16 bits that is ten times slower than
necessary, and with a static cache they are copied first. Here the queries of a group are rows of
one query. On a GPU torch's masked kernels compute all keys of a head on one multiprocessor; there
the keys are split into KV blocks (as in flash decoding). Results are equal up to rounding: at 16
bits about one in some hundreds differs in its last bit, which can decide between two tokens with
nearly equal logits.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GQA_DECODE = 'packed_sdpa'
# Keys per block. A static cache whose length is a multiple of it is processed in blocks.
KV_BLOCK = 128


def use_gqa_decode_attention(model: Any) -> None:
    """Make a loaded model's language model use grouped attention while it decodes."""
    AttentionInterface.register(GQA_DECODE, _attend)
    AttentionMaskInterface.register(GQA_DECODE, sdpa_mask)
    model.model.language_model.config._attn_implementation = GQA_DECODE


def use_sdpa(model: Any) -> None:
    """Restore transformers' own sdpa attention."""
    model.model.language_model.config._attn_implementation = 'sdpa'


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' sdpa does.

    Args:
        module: the attention layer.
        query: (B, heads, tokens, width).
        key: (B, key heads, all tokens, width).
        value: of the keys' shape.
        attention_mask: (B, 1, tokens, all tokens) bool, or None for all.
        **kwargs: as transformers passes them; `scaling` is used.

    Returns:
        (B, tokens, heads, width), and no weights.
    """
    if query.shape[2] != 1:
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return attended
    return attend_grouped(query, key, value, attention_mask, kwargs['scaling']), None


def attend_grouped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Return (B, tokens, heads, width); arguments are those of `_attend`.

    Without a mask each token attends to all tokens.
    """
    batch, heads, tokens, width = query.shape
    kv_heads = key.shape[1]
    group_size = heads // kv_heads
    grouped = query.reshape(batch, kv_heads, group_size * tokens, width)
    if mask is not None and tokens > 1:
        mask = mask.repeat(1, 1, group_size, 1)
    # A growing cache returns strided views of its buffers.
    static = value.is_contiguous() and key.shape[2] % KV_BLOCK == 0
    if mask is not None and key.is_cuda and static:
        attended = attend_in_blocks(grouped, key, value, mask, scale)
    else:
        attended = torch.nn.functional.scaled_dot_product_attention(
            grouped, key, value, attn_mask=mask, scale=scale
        )
    return attended.reshape(batch, heads, tokens, width).transpose(1, 2)


def attend_in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend with the matrix products split into KV blocks.

    Args:
        query: (B, key heads, rows, width).
        key: (B, key heads, all tokens, width), tokens a multiple of `KV_BLOCK`.
        value: of the keys' shape.
        mask: (B, 1, 1 or rows, all tokens) bool, true for at least one.
        scale: of the products.

    Returns:
        Of the query's shape. Sums are float32, as in torch's own kernels.
    """
    batch, heads, rows, width = query.shape
    blocks = key.shape[2] // KV_BLOCK
    scores = _matmul_float32(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2))
    scores = scores.view(batch, heads, rows, -1) * scale
    scores = scores.masked_fill(~mask, float('-inf'))
    weights = scores.softmax(-1).to(value.dtype)
    blocked_weights = (
        weights.view(batch, heads, rows, blocks, KV_BLOCK)
        .transpose(2, 3)
        .reshape(-1, rows, KV_BLOCK)
    )
    attended = _matmul_float32(blocked_weights, value.reshape(-1, KV_BLOCK, width))
    return attended.view(batch, heads, blocks, rows, width).sum(2).to(query.dtype)


def _matmul_float32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return (N, rows, columns) float32 products of (N, rows, inner) and (N, inner, columns)."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
