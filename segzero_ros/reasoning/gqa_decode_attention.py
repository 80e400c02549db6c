"""Attention of one or a few new tokens, with the heads that share keys packed together.

Where several query heads share one pair of key and value heads, torch's kernels read the keys and
values once per query head: on a CPU at 16 bits that is ten times slower than it needs to be, and
with a static cache they are even copied first. Queries that share a head can be rows of one query
instead. On a GPU torch's kernels for a mask give all keys of a head to one of its processors, of
which there are a hundred and more; there the keys are dealt out in parts. The numbers are the same
but for rounding: at 16 bits one in some hundreds differs in its last bit, which can decide between
two tokens that are as good as equal.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GQA_DECODE = 'packed_sdpa'
# Keys in a part. A static cache whose length is a multiple of it is read in parts.
KV_BLOCK = 128


def use_gqa_decode_attention(model: Any) -> None:
    """Have a loaded model's language model pack its heads while it decodes."""
    AttentionInterface.register(GQA_DECODE, _attend)
    AttentionMaskInterface.register(GQA_DECODE, sdpa_mask)
    model.model.language_model.config._attn_implementation = GQA_DECODE


def use_sdpa(model: Any) -> None:
    """Have a model whose heads were packed attend by transformers' own sdpa again."""
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

    Without a mask each token looks at all of them.
    """
    batch, heads, tokens, width = query.shape
    key_heads = key.shape[1]
    shared = heads // key_heads
    packed = query.reshape(batch, key_heads, shared * tokens, width)
    if mask is not None and tokens > 1:
        mask = mask.repeat(1, 1, shared, 1)
    # Rows of a growing cache are views and lie apart.
    static = value.is_contiguous() and key.shape[2] % KV_BLOCK == 0
    if mask is not None and key.is_cuda and static:
        mixed = attend_in_blocks(packed, key, value, mask, scale)
    else:
        mixed = torch.nn.functional.scaled_dot_product_attention(
            packed, key, value, attn_mask=mask, scale=scale
        )
    return mixed.reshape(batch, heads, tokens, width).transpose(1, 2)


def attend_in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend with the products of each part of the keys as one of many small ones.

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
    parts = key.shape[2] // KV_BLOCK
    scores = _product(query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2))
    scores = scores.view(batch, heads, rows, -1) * scale
    scores = scores.masked_fill(~mask, float('-inf'))
    weights = scores.softmax(-1).to(value.dtype)
    dealt = (
        weights.view(batch, heads, rows, parts, KV_BLOCK)
        .transpose(2, 3)
        .reshape(-1, rows, KV_BLOCK)
    )
    mixed = _product(dealt, value.reshape(-1, KV_BLOCK, width))
    return mixed.view(batch, heads, parts, rows, width).sum(2).to(query.dtype)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return (N, rows, columns) float32 products of (N, rows, inner) and (N, inner, columns)."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())
