"""A faster vision tower: batched window attention, and patch embedding by one matrix product.

Without flash-attention, Qwen2.5-VL's vision tower attends to one window after the other: 1796
calls for an image of 840 by 840. Windows of equal size are batched here, which leaves three sizes
in such an image (inner, edge, corner). On a CPU the queries of full attention are split into
blocks, so that cancelling is quick, and the rotary embedding is applied in blocks that fit the
processor's cache. Results are identical.

Patches do not overlap, so their convolution is one matrix product, which a CPU computes in a
fiftieth of the time (16 bits, 3600 patches). Its summation order differs: at 16 bits about one
result in some thousands differs in its last bit.
"""

from __future__ import annotations

from itertools import chain, pairwise
from types import MethodType
from typing import Any, NamedTuple

import torch

# Queries per block of a large window. From 768 on torch's CPU kernel works in tiles of 256
# queries, so blocks of this length, and a last one that is not shorter, change no bit.
_QUERY_BLOCK = 768
# Patches per block of the rotary embedding on a CPU: the intermediate results fit its cache.
_ROTARY_BLOCK = 128


class _Plan(NamedTuple):
    """How the windows of an image are batched.

    Attributes:
        cu_seqlens: the tensor of window bounds that it was made from.
        groups: for each window length the patch indices, (windows, length); empty when all
            windows are equally long.
        length: of every window, when all are equal.
        inverse: index of each patch's result in the concatenated groups.
    """

    cu_seqlens: torch.Tensor
    groups: tuple[torch.Tensor, ...]
    length: int
    inverse: torch.Tensor


def attend_by_window_size(model: Any) -> int:
    """Make a loaded model's vision tower attend to windows of equal size in one batch.

    Returns:
        How many of its blocks do so: 0 where the attention implementation is not sdpa or the
        tower is spread over devices.
    """
    tower = model.model.visual
    if tower.config._attn_implementation != 'sdpa':
        return 0
    tower_attentions = [block.attn for block in tower.blocks]
    if any(hasattr(attention, '_hf_hook') for attention in tower_attentions):
        return 0
    windows = _WindowAttention()
    for attention in tower_attentions:
        # A submodule of the block, so that hooks on modules (cancelling) run between the calls.
        attention.attend = windows.attend
        attention.forward = MethodType(windows.forward(), attention)
    return len(tower_attentions)


def embed_patches_by_matmul(model: Any) -> None:
    """Make a loaded model's vision tower embed its patches by one matrix product.

    A tower that is spread over devices stays as it is.
    """
    embedding = model.model.visual.patch_embed
    if any(hasattr(module, '_hf_hook') for module in embedding.modules()):
        return

    def forward(module: Any, patches: torch.Tensor) -> torch.Tensor:
        weight = module.proj.weight.flatten(1)
        return torch.nn.functional.linear(patches.to(weight.dtype), weight)

    embedding.forward = MethodType(forward, embedding)


def restore_vision_tower(model: Any) -> None:
    """Restore transformers' own forward methods of the vision tower."""
    tower = model.model.visual
    tower.patch_embed.__dict__.pop('forward', None)
    for block in tower.blocks:
        if block.attn.__dict__.pop('forward', None) is not None:
            del block.attn.attend


class _WindowAttention:
    """The attention of all blocks of one tower, which share the plans of the last image."""

    def __init__(self) -> None:
        self.attend = _ScaledDotProduct()
        self._plans: list[_Plan] = []

    def forward(self) -> Any:
        """Return a block's forward, with the module as its first argument."""

        def forward(
            module: Any,
            hidden_states: torch.Tensor,
            cu_seqlens: torch.Tensor,
            position_embeddings: tuple[torch.Tensor, torch.Tensor],
            **_: Any,
        ) -> torch.Tensor:
            heads = module.num_heads
            qkv = module.qkv(hidden_states).unflatten(1, (3 * heads, -1))
            # Queries and keys are adjacent: the rotary embedding is applied to both at once.
            _apply_rotary(qkv[:, : 2 * heads], *position_embeddings)
            attended = self._attend(qkv.unflatten(1, (3, heads)), cu_seqlens, module.scaling)
            out: torch.Tensor = module.proj(attended)
            return out

        return forward

    def _attend(self, qkv: torch.Tensor, cu_seqlens: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend within windows.

        Args:
            qkv: (patches, 3, heads, width) queries, keys and values.
            cu_seqlens: (windows + 1,) cumulative window lengths.
            scale: of the products.

        Returns:
            (patches, heads times width).
        """
        plan = self._plan(cu_seqlens)
        if not plan.groups:
            windows = qkv.view(-1, plan.length, *qkv.shape[1:])
            return self._attention(windows, scale)
        groups = [
            self._attention(
                qkv.index_select(0, index.flatten()).view(*index.shape, *qkv.shape[1:]), scale
            )
            for index in plan.groups
        ]
        return torch.cat(groups).index_select(0, plan.inverse)

    def _attention(self, windows: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend within each of (windows, length, 3, heads, width); a row for each patch."""
        query, key, value = windows.transpose(1, 3).unbind(2)
        length = query.shape[2]
        count = 1 if query.is_cuda else max(1, length // _QUERY_BLOCK)
        ends = [*range(_QUERY_BLOCK, count * _QUERY_BLOCK, _QUERY_BLOCK), length]
        blocks = [
            self.attend(query[:, :, start:end], key, value, scale)
            for start, end in pairwise(chain([0], ends))
        ]
        attended = torch.cat(blocks, dim=2) if len(blocks) > 1 else blocks[0]
        return attended.transpose(1, 2).flatten(0, 1).flatten(1)

    def _plan(self, cu_seqlens: torch.Tensor) -> _Plan:
        # All blocks of one pass get the same two tensors, so each is copied to the host once.
        for plan in self._plans:
            if plan.cu_seqlens is cu_seqlens:
                return plan
        plan = _make_plan(cu_seqlens)
        self._plans = [*self._plans[-1:], plan]
        return plan


def _apply_rotary(vectors: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> None:
    """Apply the rotary embedding in place, in float32 as transformers does.

    Args:
        vectors: (patches, heads, width).
        cosine: (patches, width) of the patches' positions.
        sine: (patches, width).
    """
    half = vectors.shape[-1] // 2
    count = len(vectors) if vectors.is_cuda else _ROTARY_BLOCK
    for block, cosines, sines in zip(
        torch.split(vectors, count),
        torch.split(cosine.float().unsqueeze(1), count),
        torch.split(sine[:, :half].float().unsqueeze(1), count),
        strict=True,
    ):
        vectors_f32 = block.float()
        rotated = vectors_f32 * cosines
        rotated[..., :half].sub_(vectors_f32[..., half:] * sines)
        rotated[..., half:].add_(vectors_f32[..., :half] * sines)
        block.copy_(rotated)


class _ScaledDotProduct(torch.nn.Module):
    """One call of torch's attention, as a module so that it can be hooked."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return (windows, heads, queries, width); the arguments have the same axes."""
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)


def _make_plan(cu_seqlens: torch.Tensor) -> _Plan:
    bounds = cu_seqlens.tolist()
    by_length: dict[int, list[int]] = {}
    for start, stop in pairwise(bounds):
        if stop > start:
            by_length.setdefault(stop - start, []).append(start)
    if len(by_length) == 1:
        return _Plan(cu_seqlens, (), next(iter(by_length)), cu_seqlens)
    device = cu_seqlens.device
    groups = tuple(
        torch.tensor(starts_of_length, device=device)[:, None]
        + torch.arange(length, device=device)
        for length, starts_of_length in by_length.items()
    )
    order = torch.cat([index.flatten() for index in groups])
    return _Plan(cu_seqlens, groups, 0, torch.argsort(order))
