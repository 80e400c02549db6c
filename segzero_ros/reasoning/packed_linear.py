"""Linear layers that keep 16-bit weights on a CPU that computes in float32.

A CPU without 16-bit instructions computes in float32, and torch then reads twice the bytes that a
bfloat16 checkpoint has. FBGEMM, in torch's builds for x86-64, multiplies float32 rows by weights
that it holds in float16. Every bfloat16 number of ordinary size is a float16 number, so the
products are those of the float32 weights, summed in another order. Where torch has no FBGEMM, and
for weights that float16 cannot hold, the layers stay as they are. What it gains is measured by
`python -m benchmarks.reasoner --without packed_weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

# Smaller matrices stay in the processor's cache, and the call costs more than the product.
_MIN_WEIGHTS = 2**18
# Relative to a matrix's mean weight, what rounding may change in any: numbers too small for
# float16. Beside the others they are below float32's own rounding of the sum.
_ALLOWED = 1e-5


def product(rows: torch.Tensor, packed: Any) -> torch.Tensor:
    """Return (..., out) float32 of (..., in) float32 rows and packed weights with their bias."""
    found: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(rows, packed)
    return found


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Any:
    """Return packed weights, (out, in), and their bias; None if float16 cannot hold them.

    Also None where torch has no FBGEMM, or where packing would gain nothing.
    """
    suits = weight.device.type == 'cpu' and weight.dtype == torch.float32
    if not suits or weight.numel() < _MIN_WEIGHTS or not _is_available():
        return None
    error = (weight.half().float() - weight).abs().max()
    # False for NaN and for numbers beyond float16, too.
    if not error <= _ALLOWED * weight.abs().mean():
        return None
    return torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)


def _is_available() -> bool:
    return 'fbgemm' in torch.backends.quantized.supported_engines


class PackedLinear(nn.Module):
    """A linear layer with packed weights, or one of several that share a product."""

    def __init__(self, shared: SharedProduct, start: int, end: int) -> None:
        super().__init__()
        self.shared = shared
        self.columns = start, end

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., out) float32 for (..., in) float32 rows."""
        start, end = self.columns
        return self.shared.of(rows, end)[..., start:end]


class SharedProduct:
    """The product of the same rows for layers whose weights are packed together."""

    def __init__(self, packed: Any, sizes: Sequence[int]) -> None:
        self.packed = packed
        self.sizes = list(sizes)
        self._rows: torch.Tensor | None = None
        self._product: torch.Tensor | None = None

    def of(self, rows: torch.Tensor, end: int) -> torch.Tensor:
        """Return the whole product; computed for the first layer and dropped after the last."""
        if self._rows is not rows or self._product is None:
            self._rows, self._product = rows, product(rows, self.packed)
        found = self._product
        if end == sum(self.sizes):
            self._rows = self._product = None
        return found


def pack_together(module: Any, names: Sequence[str]) -> Any:
    """Replace linear layers with the same input by packed ones; return their packed weights.

    Args:
        module: has the layers as attributes.
        names: of the attributes.

    Returns:
        The packed weights of all, concatenated; None if they stay as they are.
    """
    linears = [getattr(module, name) for name in names]
    plain = all(
        type(linear) is nn.Linear and type(linear.weight) is nn.Parameter for linear in linears
    )
    if not plain:
        return None
    biases = [linear.bias for linear in linears if linear.bias is not None]
    if biases and len(biases) < len(linears):
        return None
    weight = torch.cat([linear.weight for linear in linears]) if names[1:] else linears[0].weight
    packed = pack(weight.detach(), torch.cat(biases).detach() if biases else None)
    if packed is None:
        return None
    shared = SharedProduct(packed, [linear.out_features for linear in linears])
    start = 0
    for name, size in zip(names, shared.sizes, strict=True):
        setattr(module, name, PackedLinear(shared, start, start + size))
        start += size
    return packed


def unpack_all(module: nn.Module) -> None:
    """Restore all packed linear layers inside a module."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PackedLinear):
                setattr(parent, name, _unpacked(child))


def _unpacked(packed: PackedLinear) -> nn.Linear:
    weight, bias = torch.ops.quantized.linear_unpack_fp16(packed.shared.packed)
    start, end = packed.columns
    linear = nn.Linear(weight.shape[1], end - start, bias=bias is not None, device='meta')
    linear.weight = nn.Parameter(weight[start:end].clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias[start:end].clone(), requires_grad=False)
    return linear
