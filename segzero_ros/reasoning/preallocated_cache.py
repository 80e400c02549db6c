"""A KV cache that grows in strides instead of being copied for every token."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
import transformers.cache_utils

# transformers' own classes carry no types.
_Layer: Any = transformers.cache_utils.DynamicLayer
_STRIDE = 256


class PreallocatedLayer(_Layer):  # type: ignore[misc]
    """One layer's keys and values: views of larger, preallocated tensors."""

    def __init__(self) -> None:
        super().__init__()
        self._allocated: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values, (rows, heads, tokens, width); return all.

        Args:
            key_states: the new keys.
            value_states: the new values.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        if self._allocated is None or end > self._allocated[0].shape[-2]:
            self._allocated = (
                _enlarged(self.keys, key_states, length, end),
                _enlarged(self.values, value_states, length, end),
            )
        keys, values = self._allocated
        keys[:, :, length:end] = key_states
        values[:, :, length:end] = value_states
        self.keys: torch.Tensor = keys[:, :, :end]
        self.values: torch.Tensor = values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Select these rows; they are copies, so the next update reallocates the buffers."""
        super().batch_select_indices(indices)
        self._allocated = None


def preallocated_cache(layers: int) -> Cache:
    """Return an empty cache with so many layers."""
    return Cache(layers=[PreallocatedLayer() for _ in range(layers)])


def preallocate(cache: Any, rows: torch.Tensor) -> None:
    """Select rows of a filled cache and preallocate its layers.

    Layers of other classes than transformers' DynamicLayer are kept, with the rows selected.

    Args:
        cache: of transformers; changed.
        rows: (B,) int64.
    """
    for number, layer in enumerate(cache.layers):
        if type(layer) is not _Layer:
            layer.batch_select_indices(rows)
            continue
        preallocated = PreallocatedLayer()
        preallocated.update(layer.keys[rows], layer.values[rows])
        cache.layers[number] = preallocated


def _enlarged(old: Any, new: torch.Tensor, length: int, wanted: int) -> torch.Tensor:
    capacity = (wanted // _STRIDE + 1) * _STRIDE
    enlarged = new.new_empty((*new.shape[:-2], capacity, new.shape[-1]))
    if length:
        enlarged[:, :, :length] = old
    return enlarged
