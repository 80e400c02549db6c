"""A fused decode step: one or a few tokens through the language model without its modules.

Decoding one token is bound by reading weights and by calling about twenty modules per layer. Here
the same operations run in one function, and matrices with the same input are concatenated. The
logits equal the model's up to rounding: larger products and several tokens at once may be summed
in another order, on a CPU a faster bfloat16 kernel is used (see `onednn`), on a GPU the function
is compiled. So of two tokens with nearly equal logits either may be chosen; on a CPU that also
depends on whether an encoder runs at that moment and on earlier drafts. Before any weights are
concatenated, the step is compared with the model (on a CPU bit for bit for single tokens, with the
default kernels), because another release of transformers may compute differently.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from segzero_ros import onednn
from segzero_ros.reasoning import packed_linear
from segzero_ros.reasoning.base import FastPathError
from segzero_ros.reasoning.gqa_decode_attention import attend_grouped, GQA_DECODE
from segzero_ros.reasoning.preallocated_cache import preallocated_cache

# Tokens of the comparison, run one by one and together.
_CHECKED_TOKENS = 4
_QKV = ('q_proj', 'k_proj', 'v_proj')
_GATE_UP = ('gate_proj', 'up_proj')


class FusedDecodeStep:
    """The decode step of a Qwen2-VL or Qwen2.5-VL for one token or, causally masked, a few."""

    def __init__(self, model: Any, *, concatenated: bool) -> None:
        """Look up the layers' weights.

        Args:
            model: a loaded Qwen2-VL or Qwen2.5-VL.
            concatenated: concatenate q, k and v into one matrix, and on a CPU gate and up too; on
                a GPU the latter gains too little for the peak memory. On a CPU they are packed
                where that gains (`packed_linear`). The model's own matrices become views, so
                nothing is stored twice.
        """
        self._model = model
        self._language = model.model.language_model
        # Attribute lookup in a module takes as long as a small operation.
        on_cpu = model.device.type == 'cpu'
        qkv = _concatenate if concatenated else _weights
        gate_up = _concatenate if concatenated and on_cpu else _weights
        single = _packed_or_plain if concatenated and on_cpu else _weights
        self._layers = [
            (
                layer.input_layernorm.weight,
                layer.self_attn,
                qkv(layer.self_attn, _QKV),
                single(layer.self_attn, ('o_proj',))[0],
                layer.post_attention_layernorm.weight,
                gate_up(layer.mlp, _GATE_UP),
                single(layer.mlp, ('down_proj',))[0],
            )
            for layer in self._language.layers
        ]
        self._epsilon = self._language.norm.variance_epsilon
        avoid = on_cpu and onednn.worth_avoiding(model.dtype)
        self._kernels: Any = onednn.avoided if avoid else nullcontext
        tiles = on_cpu and _has_plain_weights(model) and onednn.has_tiles_for(model.dtype)
        self._several = linear_weight_stationary if tiles else functional.linear

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Run tokens with the fastest kernels; return the logits after each.

        Args:
            ids: (1, N) the tokens.
            positions: (3, 1, N) their positions.
            cache: keys and values of the tokens before, growing or static; N are appended.

        Returns:
            (N, vocabulary) float32.
        """
        with self._kernels() if ids.shape[1] == 1 else nullcontext():
            return self.read(ids, positions, cache)

    def read(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Run tokens with the model's own kernels; arguments and result as for `__call__`."""
        hidden = self._language.embed_tokens(ids)
        mask = _mask(cache, hidden)
        cosine, sine = self._language.rotary_emb(hidden, positions)
        rotary = cosine.unsqueeze(1), sine.unsqueeze(1)
        linear = functional.linear if ids.shape[1] == 1 else self._several
        for layer, layer_cache in zip(self._layers, cache.layers, strict=True):
            input_norm, attention, qkv_proj, o_proj, post_norm, gate_up_proj, down_proj = layer
            normed = self._rms_norm(hidden, input_norm)
            products = [_product(linear, normed, weights) for weights in qkv_proj]
            attended = _attend(attention, products, rotary, layer_cache, mask)
            hidden = hidden + _product(linear, attended, o_proj)
            normed = self._rms_norm(hidden, post_norm)
            products = [_product(linear, normed, weights) for weights in gate_up_proj]
            gate, up = products if len(products) == 2 else products[0].chunk(2, -1)
            hidden = hidden + _product(linear, functional.silu(gate) * up, down_proj)
        hidden = self._rms_norm(hidden, self._language.norm.weight)
        logits: torch.Tensor = self._model.lm_head(hidden[0]).float()
        return logits

    def _rms_norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        plain = hidden.float()
        plain = plain * plain.pow(2).mean(-1, keepdim=True).add_(self._epsilon).rsqrt_()
        return weight * plain.to(hidden.dtype)


# Weight and bias of a linear layer, or its packed weights alone.
_Linear = tuple[torch.Tensor, torch.Tensor | None] | tuple[Any]


def _product(linear: Any, rows: torch.Tensor, weights: _Linear) -> torch.Tensor:
    """Return `linear` of rows, (1, N, inner), and a layer's weights."""
    if len(weights) == 1:
        return packed_linear.product(rows, weights[0])
    found: torch.Tensor = linear(rows, *weights)
    return found


def linear_weight_stationary(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what `linear` does for a few rows, (1, N, inner), with the weights on the left.

    On a CPU with AMX tiles the usual order repacks the weights, which takes as long as reading
    them. On the left they are used as stored, so 16 rows take no longer than one.
    """
    columns = rows[0].T
    if bias is None:
        return (weight @ columns).T[None]
    return torch.addmm(bias[:, None], weight, columns).T[None]


def _weights(module: Any, names: tuple[str, ...]) -> list[_Linear]:
    """Return the weights and biases of linear layers."""
    linears = (getattr(module, name) for name in names)
    return [(linear.weight, linear.bias) for linear in linears]


def _packed_or_plain(module: Any, names: tuple[str, ...]) -> list[_Linear]:
    """Pack linear layers together if that gains; else return their weights and biases."""
    packed = packed_linear.pack_together(module, names)
    return _weights(module, names) if packed is None else [(packed,)]


def _concatenate(module: Any, names: tuple[str, ...]) -> list[_Linear]:
    """Concatenate linear layers' matrices and biases; the layers keep views of them."""
    packed = packed_linear.pack_together(module, names)
    if packed is not None:
        return [(packed,)]
    linears = [getattr(module, name) for name in names]
    concatenated: list[torch.Tensor | None] = []
    for name in ('weight', 'bias'):
        own = [getattr(linear, name) for linear in linears]
        matrix = None if own[0] is None else nn.Parameter(torch.cat(own), requires_grad=False)
        concatenated.append(matrix)
        if matrix is not None:
            pieces = torch.split(matrix, [len(piece) for piece in own])
            for linear, piece in zip(linears, pieces, strict=True):
                setattr(linear, name, nn.Parameter(piece, requires_grad=False))
    weight, bias = concatenated
    assert weight is not None
    return [(weight, bias)]


def _mask(cache: Any, new: torch.Tensor) -> torch.Tensor | None:
    """Return (1, 1, N, all tokens): which tokens each of the new ones, (1, N, width), attends to.

    These are the cached tokens, itself, and the new ones before it. A boolean mask for a static
    cache; for a growing one a float mask to add, because torch would convert a boolean one in
    each layer. None for a single token and a growing cache.
    """
    layer, count = cache.layers[0], new.shape[1]
    if layer.is_compileable:
        last: torch.Tensor = layer.cumulative_length
        slots = torch.arange(layer.max_cache_len, device=last.device)
        ends = last + torch.arange(count, device=last.device)
        return (slots <= ends[:, None]).view(1, 1, count, -1)
    if count == 1:
        return None
    held = layer.get_seq_length()
    return new.new_full((1, 1, count, held + count), float('-inf')).triu(held + 1)


def _attend(
    attention: Any,
    projections: list[torch.Tensor],
    rotary: tuple[torch.Tensor, torch.Tensor],
    layer_cache: Any,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return attention's output, (1, tokens, heads times width).

    Args:
        attention: the layer's attention module.
        projections: (1, tokens, any width), queries, keys and values when concatenated.
        rotary: cosine and sine of the tokens' positions.
        layer_cache: the layer's keys and values.
        mask: see `_mask`.
    """
    qkv = projections[0] if len(projections) == 1 else torch.cat(projections, -1)
    qkv = qkv.reshape(1, qkv.shape[1], -1, attention.head_dim).transpose(1, 2)
    # The rotary embedding is applied to queries and keys together: for one token the cost is the
    # number of operations.
    query_key, value = qkv.tensor_split((attention.num_heads + attention.num_key_value_heads,), 1)
    first, second = query_key.chunk(2, -1)
    cosine, sine = rotary
    query_key = query_key * cosine + torch.cat((-second, first), -1) * sine
    query, key = query_key.tensor_split((attention.num_heads,), 1)
    keys, values = layer_cache.update(key, value)
    attended = attend_grouped(query, keys, values, mask, attention.scaling)
    return attended.flatten(2)


def fused_decode_step(model: Any) -> FusedDecodeStep | None:
    """Return the fused step of a model that uses grouped attention.

    None for a model that is quantised, has an adapter or sliding windows, or is spread over
    devices.

    Raises:
        FastPathError: its output differs from the model's.
    """
    if not _is_plain(model):
        return None
    with onednn.needed():
        matches = _matches(model, FusedDecodeStep(model, concatenated=False))
    if not matches:
        raise FastPathError('the fused decode step computes otherwise than the model does')
    # The first step is gone, so that single matrices are freed as they are concatenated.
    step = FusedDecodeStep(model, concatenated=_has_plain_weights(model))
    packed_linear.pack_together(model, ('lm_head',))
    if model.device.type == 'cuda':
        # Returns the memory of the single matrices to the device.
        torch.cuda.empty_cache()
    return step


def _is_plain(model: Any) -> bool:
    """Return whether the layers are plain ones on one device, without adapters or windows."""
    language = model.model.language_model
    config = language.config
    linears = [module for module in language.modules() if isinstance(module, nn.Linear)]
    return (
        config._attn_implementation == GQA_DECODE
        and config.hidden_act == 'silu'
        and all(type(linear) is nn.Linear for linear in linears)
        and len(linears) == 7 * len(language.layers)
        and len({(linear.weight.dtype, linear.weight.device) for linear in linears}) == 1
        and not any(hasattr(module, '_hf_hook') for module in language.modules())
        and set(config.layer_types or ()) <= {'full_attention'}
    )


def _has_plain_weights(model: Any) -> bool:
    """Return whether the weights are plain parameters, not a quantised tensor subclass."""
    modules = model.model.language_model.modules()
    linears = [module for module in modules if type(module) is nn.Linear]
    return all(type(linear.weight) is nn.Parameter for linear in linears)


@torch.inference_mode()
def _matches(model: Any, step: FusedDecodeStep) -> bool:
    """Return whether a few tokens give the same logits as the model.

    On a CPU, for a single token, bit for bit.
    """
    language = model.model.language_model
    device = model.device
    ours, theirs = (preallocated_cache(len(language.layers)) for _ in range(2))
    for position in range(_CHECKED_TOKENS + 1):
        count = _CHECKED_TOKENS if position == _CHECKED_TOKENS else 1
        ids = torch.arange(position, position + count, device=device)[None]
        positions = ids.expand(3, 1, -1)
        hidden = language(
            input_ids=ids, position_ids=positions, past_key_values=theirs, use_cache=True
        ).last_hidden_state
        expected = model.lm_head(hidden[0]).float()
        difference = step.read(ids, positions, ours).sub_(expected).norm()
        # Another summation order rounds differently; a wrong computation differs by much more.
        exact = device.type == 'cpu' and count == 1
        allowed = 0.0 if exact else torch.finfo(model.dtype).eps ** 0.5
        if not difference <= allowed * expected.norm():
            return False
    return True
