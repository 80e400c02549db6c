"""A cache of keys and values that grows in strides instead of being copied for every token."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
import transformers.cache_utils

# transformers' own classes carry no types.
_Layer: Any = transformers.cache_utils.DynamicLayer
_STRIDE = 256


class PreallocatedLayer(_Layer):  # type: ignore[misc]
    """One layer's keys and values, views of tensors that have room for more."""

    def __init__(self) -> None:
        super().__init__()
        self._allocated: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values, (rows, heads, tokens, width); return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        end = held + key_states.shape[-2]
        if self._allocated is None or end > self._allocated[0].shape[-2]:
            self._allocated = (
                _enlarged(self.keys, key_states, held, end),
                _enlarged(self.values, value_states, held, end),
            )
        keys, values = self._allocated
        keys[:, :, held:end] = key_states
        values[:, :, held:end] = value_states
        self.keys: torch.Tensor = keys[:, :, :end]
        self.values: torch.Tensor = values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Go on with these rows; they are copies, so the room is made anew."""
        super().batch_select_indices(indices)
        self._allocated = None


def preallocated_cache(layers: int) -> Cache:
    """Return an empty cache for so many layers."""
    return Cache(layers=[PreallocatedLayer() for _ in range(layers)])


def preallocate(cache: Any, rows: torch.Tensor) -> None:
    """Have a filled cache go on with these of its rows, (B,) int64, and with room for more.

    Layers of another kind than transformers' plain one have their rows chosen and stay.
    """
    for number, layer in enumerate(cache.layers):
        if type(layer) is not _Layer:
            layer.batch_select_indices(rows)
            continue
        roomy = PreallocatedLayer()
        roomy.update(layer.keys[rows], layer.values[rows])
        cache.layers[number] = roomy


def _enlarged(old: Any, new: torch.Tensor, held: int, wanted: int) -> torch.Tensor:
    room = (wanted // _STRIDE + 1) * _STRIDE
    enlarged = new.new_empty((*new.shape[:-2], room, new.shape[-1]))
    if held:
        enlarged[:, :, :held] = old
    return enlarged
