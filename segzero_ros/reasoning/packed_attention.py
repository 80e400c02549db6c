"""Attention of a single new token, with the heads that share keys packed together.

Where several query heads share one pair of key and value heads, torch's kernels read the keys and
values once per query head: on a CPU at 16 bits that is ten times slower than it needs to be, and
with a static cache they are even copied first. Queries that share a head can be rows of one query
instead. The numbers are the same but for rounding: at 16 bits one in some hundreds differs in its
last bit, which can decide between two tokens that are as good as equal. Imports torch and
transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = 'packed_sdpa'


def pack_attention(model: Any) -> None:
    """Have a loaded model's language model pack its heads while it decodes."""
    AttentionInterface.register(PACKED, _attend)
    AttentionMaskInterface.register(PACKED, sdpa_mask)
    model.model.language_model.config._attn_implementation = PACKED


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
    return attend_packed(query, key, value, attention_mask, kwargs['scaling']), None


def attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Return (B, 1, heads, width) of one token's query; arguments are those of `_attend`."""
    batch, heads, _, width = query.shape
    key_heads = key.shape[1]
    packed = query.reshape(batch, key_heads, heads // key_heads, width)
    mixed = torch.nn.functional.scaled_dot_product_attention(
        packed, key, value, attn_mask=mask, scale=scale
    )
    return mixed.reshape(batch, 1, heads, width)
