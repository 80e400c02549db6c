"""Reading one or a few tokens without the modules around the arithmetic: the fast way to decode.

For one token a language model's time goes into reading weights, and into calling its modules, some
twenty a layer. Here the same operations follow each other in one function, and one matrix takes
the place of those that multiply the same numbers. The logits are the model's own but for rounding:
a product of more columns and several tokens at once may be summed in another order, on a CPU a
kernel that reads bfloat16 faster takes the products (see `onednn`), on a GPU the function is
compiled. So of two tokens that are as good as equal either may be written, on a CPU also by
whether an encoder works at that moment and by what the drafter remembers. That it computes the
same is tried out before anything is joined, on a CPU a single token to the last bit with the usual
kernels: another release of transformers may compute otherwise.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from segzero_ros import onednn
from segzero_ros.reasoning.base import FastPathError
from segzero_ros.reasoning.gqa_decode_attention import attend_grouped, GQA_DECODE
from segzero_ros.reasoning.preallocated_cache import preallocated_cache

# Tokens that are read on trial, one by one and together.
_TRIED_TOKENS = 4
_QKV = ('q_proj', 'k_proj', 'v_proj')
_GATE_UP = ('gate_proj', 'up_proj')


class FusedDecodeStep:
    """A step of a Qwen2-VL or Qwen2.5-VL: one token, or a few of which each sees those before."""

    def __init__(self, model: Any, *, joined: bool) -> None:
        """Look up the layers' weights.

        Args:
            model: a loaded Qwen2-VL or Qwen2.5-VL.
            joined: concatenate q, k and v into one matrix, and on a CPU gate and up too. On a GPU
                the latter gains too little for the memory that concatenating takes. The model's
                own matrices become views of it, so nothing is held twice.
        """
        self._model = model
        self._language = model.model.language_model
        # Looking a weight up in its module takes as long as a small operation.
        on_cpu = model.device.type == 'cpu'
        qkv = _concatenate if joined else _weights
        gate_up = _concatenate if joined and on_cpu else _weights
        self._layers = [
            (
                layer.input_layernorm.weight,
                layer.self_attn,
                qkv(layer.self_attn, _QKV),
                _weights(layer.self_attn, ('o_proj',))[0],
                layer.post_attention_layernorm.weight,
                gate_up(layer.mlp, _GATE_UP),
                _weights(layer.mlp, ('down_proj',))[0],
            )
            for layer in self._language.layers
        ]
        self._epsilon = self._language.norm.variance_epsilon
        avoiding = on_cpu and onednn.worth_avoiding(model.dtype)
        self._kernels: Any = onednn.avoided if avoiding else nullcontext
        tiles = on_cpu and _has_plain_weights(model) and onednn.has_tiles_for(model.dtype)
        self._several = linear_weight_stationary if tiles else functional.linear

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Run tokens with the fastest kernels; return the logits after each.

        Args:
            ids: (1, N) the tokens.
            positions: (3, 1, N) their positions.
            cache: keys and values of the tokens before, growing or static; it grows by N.

        Returns:
            (N, vocabulary) float32.
        """
        with self._kernels() if ids.shape[1] == 1 else nullcontext():
            return self.read(ids, positions, cache)

    def read(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Run tokens with the kernels that the model itself would use; else as calling it does."""
        hidden = self._language.embed_tokens(ids)
        mask = _mask(cache, hidden)
        cosine, sine = self._language.rotary_emb(hidden, positions)
        rotary = cosine.unsqueeze(1), sine.unsqueeze(1)
        linear = functional.linear if ids.shape[1] == 1 else self._several
        for layer, layer_cache in zip(self._layers, cache.layers, strict=True):
            input_norm, attention, qkv_proj, o_proj, post_norm, gate_up_proj, down_proj = layer
            normed = self._rms_norm(hidden, input_norm)
            products = [linear(normed, *part) for part in qkv_proj]
            attended = _attend(attention, products, rotary, layer_cache, mask)
            hidden = hidden + linear(attended, *o_proj)
            normed = self._rms_norm(hidden, post_norm)
            products = [linear(normed, *part) for part in gate_up_proj]
            gate, up = products if len(products) == 2 else products[0].chunk(2, -1)
            hidden = hidden + linear(functional.silu(gate) * up, *down_proj)
        hidden = self._rms_norm(hidden, self._language.norm.weight)
        logits: torch.Tensor = self._model.lm_head(hidden[0]).float()
        return logits

    def _rms_norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        plain = hidden.float()
        plain = plain * plain.pow(2).mean(-1, keepdim=True).add_(self._epsilon).rsqrt_()
        return weight * plain.to(hidden.dtype)


_Linear = tuple[torch.Tensor, torch.Tensor | None]


def linear_weight_stationary(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what `linear` does for a few rows, (1, N, inner), with the weights on the left.

    On a CPU with tiles the usual order packs the weights into tiles, which takes as long as
    reading them. With the weights on the left they are used as they are, so that 16 rows take no
    longer than one.
    """
    columns = rows[0].T
    if bias is None:
        return (weight @ columns).T[None]
    return torch.addmm(bias[:, None], weight, columns).T[None]


def _weights(module: Any, names: tuple[str, ...]) -> list[_Linear]:
    """Return the weights and biases of linear layers."""
    return [(part.weight, part.bias) for part in (getattr(module, name) for name in names)]


def _concatenate(module: Any, names: tuple[str, ...]) -> list[_Linear]:
    """Concatenate linear layers' matrices and biases; the layers keep views of them."""
    parts = [getattr(module, name) for name in names]
    joined: list[torch.Tensor | None] = []
    for name in ('weight', 'bias'):
        own = [getattr(part, name) for part in parts]
        whole = None if own[0] is None else nn.Parameter(torch.cat(own), requires_grad=False)
        joined.append(whole)
        if whole is not None:
            pieces = torch.split(whole, [len(piece) for piece in own])
            for part, piece in zip(parts, pieces, strict=True):
                setattr(part, name, nn.Parameter(piece, requires_grad=False))
    weight, bias = joined
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
    parts: list[torch.Tensor],
    rotary: tuple[torch.Tensor, torch.Tensor],
    layer_cache: Any,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return attention's output, (1, tokens, heads times width).

    Args:
        attention: the layer's.
        parts: (1, tokens, any width), queries, keys and values when concatenated.
        rotary: cosine and sine of the tokens' positions.
        layer_cache: the layer's keys and values.
        mask: see `_mask`.
    """
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    whole = whole.reshape(1, whole.shape[1], -1, attention.head_dim).transpose(1, 2)
    # Queries and keys take the rotary embedding together: for one token an operation costs more
    # than its numbers.
    both, value = whole.tensor_split((attention.num_heads + attention.num_key_value_heads,), 1)
    first, second = both.chunk(2, -1)
    cosine, sine = rotary
    both = both * cosine + torch.cat((-second, first), -1) * sine
    query, key = both.tensor_split((attention.num_heads,), 1)
    keys, values = layer_cache.update(key, value)
    attended = attend_grouped(query, keys, values, mask, attention.scaling)
    return attended.flatten(2)


def fused_decode_step(model: Any) -> FusedDecodeStep | None:
    """Return the fast step of a model whose attention is packed.

    None for a model that is quantised, adapted, spread over devices or windowed.

    Raises:
        FastPathError: it computes otherwise than the model does.
    """
    if not _is_plain(model):
        return None
    with onednn.needed():
        same = _same(model, FusedDecodeStep(model, joined=False))
    if not same:
        raise FastPathError('the fused decode step computes otherwise than the model does')
    # What held the single matrices is gone, so that each is freed when its layer's are joined.
    step = FusedDecodeStep(model, joined=_has_plain_weights(model))
    if model.device.type == 'cuda':
        # The memory of the single matrices.
        torch.cuda.empty_cache()
    return step


def _is_plain(model: Any) -> bool:
    """Return whether the layers are ordinary ones: not quantised, adapted, spread or windowed."""
    language = model.model.language_model
    config = language.config
    linears = [part for part in language.modules() if isinstance(part, nn.Linear)]
    return (
        config._attn_implementation == GQA_DECODE
        and config.hidden_act == 'silu'
        and all(type(part) is nn.Linear for part in linears)
        and len(linears) == 7 * len(language.layers)
        and len({(part.weight.dtype, part.weight.device) for part in linears}) == 1
        and not any(hasattr(part, '_hf_hook') for part in language.modules())
        and set(config.layer_types or ()) <= {'full_attention'}
    )


def _has_plain_weights(model: Any) -> bool:
    """Return whether the weights are plain numbers, and not of a kind of their own."""
    linears = [part for part in model.model.language_model.modules() if type(part) is nn.Linear]
    return all(type(part.weight) is nn.Parameter for part in linears)


@torch.inference_mode()
def _same(model: Any, step: FusedDecodeStep) -> bool:
    """Return whether a few tokens give the same logits in both ways.

    On a CPU a single token does to the last bit.
    """
    language = model.model.language_model
    device = model.device
    ours, theirs = (preallocated_cache(len(language.layers)) for _ in range(2))
    for begin in range(_TRIED_TOKENS + 1):
        count = _TRIED_TOKENS if begin == _TRIED_TOKENS else 1
        ids = torch.arange(begin, begin + count, device=device)[None]
        positions = ids.expand(3, 1, -1)
        hidden = language(
            input_ids=ids, position_ids=positions, past_key_values=theirs, use_cache=True
        ).last_hidden_state
        expected = model.lm_head(hidden[0]).float()
        off = step.read(ids, positions, ours).sub_(expected).norm()
        # Another way to sum rounds otherwise; what is computed wrongly is off by much more.
        exact = device.type == 'cpu' and count == 1
        allowed = 0.0 if exact else torch.finfo(model.dtype).eps ** 0.5
        if not off <= allowed * expected.norm():
            return False
    return True
