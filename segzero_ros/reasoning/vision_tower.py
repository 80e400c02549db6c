"""The vision tower on its fast way: windows of a size at once, patches by one product.

Without flash-attention, Qwen2.5-VL's vision tower attends to one window after the other: 1796
calls for an image of 840 by 840. Windows of one size can share a call, which leaves three sizes in
such an image (inner, edge, corner). On a CPU, where a window of the whole image takes long, its
queries go in parts, so that a cancel need not wait for all of them. There, too, queries and keys
are turned by their places in parts that stay in its cache. The numbers are the same.

Patches do not overlap, so their convolution is one matrix product, which a CPU does in a fiftieth
of the time (16 bits, 3600 patches). Its sums are in another order: at 16 bits one number in some
thousands differs in its last bit.
"""

from __future__ import annotations

from itertools import chain, pairwise
from types import MethodType
from typing import Any, NamedTuple

import torch

# Queries in a part of a large window. From 768 on torch's kernel for CPUs takes blocks of 256
# queries, so parts of this length, and a last one that is not shorter, change no bit.
_PART = 768
# Patches whose queries and keys are turned at once on a CPU: what lies between fits its cache.
_TURNED = 128


class _Plan(NamedTuple):
    """How the windows of an image are put together.

    Attributes:
        bounds: the tensor of window bounds that it was made from.
        groups: where the patches of windows of one length stand, (windows, length) each; empty
            when all windows are equally long.
        length: of every window, when all are equal.
        back: where each patch's result stands after the groups.
    """

    bounds: torch.Tensor
    groups: tuple[torch.Tensor, ...]
    length: int
    back: torch.Tensor


def attend_by_window_size(model: Any) -> int:
    """Make a loaded model's vision tower attend to windows of a size at once.

    Returns:
        How many of its blocks do so: 0 where the tower attends by other means than torch's own,
        or is spread over devices.
    """
    tower = model.model.visual
    if tower.config._attn_implementation != 'sdpa':
        return 0
    blocks = [block.attn for block in tower.blocks]
    if any(hasattr(attention, '_hf_hook') for attention in blocks):
        return 0
    windows = _Windows()
    for attention in blocks:
        # A child of the block's, so that whoever hooks its modules comes between the calls.
        attention.attend = windows.attend
        attention.forward = MethodType(windows.forward(), attention)
    return len(blocks)


def embed_by_product(model: Any) -> None:
    """Make a loaded model's vision tower embed its patches by one matrix product.

    Not where it is spread over devices.
    """
    embedding = model.model.visual.patch_embed
    if any(hasattr(module, '_hf_hook') for module in embedding.modules()):
        return

    def forward(module: Any, patches: torch.Tensor) -> torch.Tensor:
        weight = module.proj.weight.flatten(1)
        return torch.nn.functional.linear(patches.to(weight.dtype), weight)

    embedding.forward = MethodType(forward, embedding)


def restore(model: Any) -> None:
    """Have a model's vision tower compute as transformers has it again."""
    tower = model.model.visual
    tower.patch_embed.__dict__.pop('forward', None)
    for block in tower.blocks:
        if block.attn.__dict__.pop('forward', None) is not None:
            del block.attn.attend


class _Windows:
    """The attention of all blocks of one tower; they share the plans of the last image."""

    def __init__(self) -> None:
        self.attend = _Attend()
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
            mixed = module.qkv(hidden_states).unflatten(1, (3 * heads, -1))
            # Queries and keys lie behind each other and are turned together.
            _turn(mixed[:, : 2 * heads], *position_embeddings)
            found = self._attend(mixed.unflatten(1, (3, heads)), cu_seqlens, module.scaling)
            out: torch.Tensor = module.proj(found)
            return out

        return forward

    def _attend(self, mixed: torch.Tensor, bounds: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend within windows.

        Args:
            mixed: (patches, 3, heads, width) queries, keys and values.
            bounds: (windows + 1,) where windows begin and end.
            scale: of the products.

        Returns:
            (patches, heads times width).
        """
        plan = self._plan(bounds)
        if not plan.groups:
            windows = mixed.view(-1, plan.length, *mixed.shape[1:])
            return self._attention(windows, scale)
        groups = [
            self._attention(
                mixed.index_select(0, index.flatten()).view(*index.shape, *mixed.shape[1:]), scale
            )
            for index in plan.groups
        ]
        return torch.cat(groups).index_select(0, plan.back)

    def _attention(self, windows: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend within each of (windows, length, 3, heads, width); a row for each patch."""
        query, key, value = windows.transpose(1, 3).unbind(2)
        length = query.shape[2]
        count = 1 if query.is_cuda else max(1, length // _PART)
        ends = [*range(_PART, count * _PART, _PART), length]
        parts = [
            self.attend(query[:, :, start:end], key, value, scale)
            for start, end in pairwise(chain([0], ends))
        ]
        found = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        return found.transpose(1, 2).flatten(0, 1).flatten(1)

    def _plan(self, bounds: torch.Tensor) -> _Plan:
        # All blocks of one pass are given the same two tensors, so this reads them back once each.
        for plan in self._plans:
            if plan.bounds is bounds:
                return plan
        plan = _make_plan(bounds)
        self._plans = [*self._plans[-1:], plan]
        return plan


def _turn(vectors: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> None:
    """Turn (patches, heads, width) by their patches' places, (patches, width), where they lie.

    In float32, as transformers does it; the numbers are the same.
    """
    half = vectors.shape[-1] // 2
    count = len(vectors) if vectors.is_cuda else _TURNED
    for part, cosines, sines in zip(
        torch.split(vectors, count),
        torch.split(cosine.float().unsqueeze(1), count),
        torch.split(sine[:, :half].float().unsqueeze(1), count),
        strict=True,
    ):
        plain = part.float()
        turned = plain * cosines
        turned[..., :half].sub_(plain[..., half:] * sines)
        turned[..., half:].add_(plain[..., :half] * sines)
        part.copy_(turned)


class _Attend(torch.nn.Module):
    """One call of torch's attention; a module, since hooks belong to modules."""

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return (windows, heads, queries, width), from tensors of that order."""
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)


def _make_plan(bounds: torch.Tensor) -> _Plan:
    starts = bounds.tolist()
    by_length: dict[int, list[int]] = {}
    for start, stop in pairwise(starts):
        if stop > start:
            by_length.setdefault(stop - start, []).append(start)
    if len(by_length) == 1:
        return _Plan(bounds, (), next(iter(by_length)), bounds)
    device = bounds.device
    groups = tuple(
        torch.tensor(begins, device=device)[:, None] + torch.arange(length, device=device)
        for length, begins in by_length.items()
    )
    order = torch.cat([index.flatten() for index in groups])
    return _Plan(bounds, groups, 0, torch.argsort(order))
