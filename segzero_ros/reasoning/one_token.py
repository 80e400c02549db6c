"""Reading one more token without the modules around the arithmetic: the fast way to decode.

For one token a language model's time goes into reading weights, and into calling its modules,
some twenty a layer. Here the same operations follow each other in one function. The logits are the
model's own but for rounding: on a CPU a kernel that reads bfloat16 faster takes the products (see
`onednn`), on a GPU the function is compiled and one matrix takes the place of three for queries,
keys and values. So of two tokens that are as good as equal either may be written, on a CPU also by
whether an encoder works at that moment. That it computes the same is tried out before it is used,
on a CPU to the last bit with the usual kernels: another release of transformers may compute
otherwise. Imports torch, `onednn`, `packed_attention` and `roomy_cache`.
"""

from __future__ import annotations

from contextlib import nullcontext
import logging
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from segzero_ros import onednn
from segzero_ros.reasoning.packed_attention import attend_packed, PACKED
from segzero_ros.reasoning.roomy_cache import roomy_cache

# Tokens that are read on trial.
_TRIED = 4
_LOOKING = ('q_proj', 'k_proj', 'v_proj')
_logger = logging.getLogger(__name__)


class OneToken:
    """The step of one token of a Qwen2-VL or Qwen2.5-VL."""

    def __init__(self, model: Any, *, joined: bool) -> None:
        """Look up the parts; `joined` has queries, keys and values come of one matrix.

        The model's own three matrices are parts of it then, so nothing is held twice.
        """
        self._model = model
        self._language = model.model.language_model
        # Looking a part up in its module takes as long as a small operation.
        self._layers = [
            (
                layer.input_layernorm.weight,
                layer.self_attn,
                _join(layer.self_attn) if joined else _weights(layer.self_attn, _LOOKING),
                _weights(layer.self_attn, ('o_proj',))[0],
                layer.post_attention_layernorm.weight,
                _weights(layer.mlp, ('gate_proj', 'up_proj', 'down_proj')),
            )
            for layer in self._language.layers
        ]
        self._epsilon = self._language.norm.variance_epsilon
        avoiding = model.device.type == 'cpu' and onednn.worth_avoiding(model.dtype)
        self._kernels: Any = onednn.avoided if avoiding else nullcontext

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Read a token with the fastest kernels; return the logits after it.

        Args:
            ids: (1, 1) the token.
            positions: (3, 1, 1) its place.
            cache: what was read before, growing or static; it grows by one.

        Returns:
            (1, vocabulary) float32.
        """
        with self._kernels():
            return self.read(ids, positions, cache)

    def read(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Read a token with the kernels that the model itself would have; as calling it does."""
        mask = _mask(cache)
        hidden = self._language.embed_tokens(ids)
        cosine, sine = self._language.rotary_emb(hidden, positions)
        turn = cosine.unsqueeze(1), sine.unsqueeze(1)
        for layer, memory in zip(self._layers, cache.layers, strict=True):
            before, attention, looking, back, between, (gate, value, outward) = layer
            normed = self._normed(hidden, before)
            found = _look(attention, looking, normed, turn, memory, mask)
            hidden = hidden + functional.linear(found, *back)
            normed = self._normed(hidden, between)
            wide = functional.silu(functional.linear(normed, *gate))
            wide = wide * functional.linear(normed, *value)
            hidden = hidden + functional.linear(wide, *outward)
        hidden = self._normed(hidden, self._language.norm.weight)
        logits: torch.Tensor = self._model.lm_head(hidden[:, -1]).float()
        return logits

    def _normed(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        plain = hidden.float()
        plain = plain * plain.pow(2).mean(-1, keepdim=True).add_(self._epsilon).rsqrt_()
        return weight * plain.to(hidden.dtype)


_Linear = tuple[torch.Tensor, torch.Tensor | None]


def _weights(module: Any, names: tuple[str, ...]) -> list[_Linear]:
    """Return the weights and biases of linear layers."""
    return [(part.weight, part.bias) for part in (getattr(module, name) for name in names)]


def _join(attention: Any) -> list[_Linear]:
    """Put the matrices for queries, keys and values, and their biases, behind each other."""
    parts = [getattr(attention, name) for name in _LOOKING]
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


def _mask(cache: Any) -> torch.Tensor | None:
    """Return (1, 1, 1, all tokens) bool, true where something has been read or will be now.

    None for a cache that holds nothing else.
    """
    layer = cache.layers[0]
    if not layer.is_compileable:
        return None
    last: torch.Tensor = layer.cumulative_length
    places = torch.arange(layer.max_cache_len, device=last.device)
    return (places <= last).view(1, 1, 1, -1)


def _look(
    attention: Any,
    looking: list[_Linear],
    normed: torch.Tensor,
    turn: tuple[torch.Tensor, torch.Tensor],
    memory: Any,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return (1, 1, heads times width) what attention finds."""
    parts = [functional.linear(normed, *part) for part in looking]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
    whole = whole.view(1, 1, -1, attention.head_dim).transpose(1, 2)
    # Queries and keys are turned together: for one token operations cost more than numbers.
    both, value = whole.tensor_split((attention.num_heads + attention.num_key_value_heads,), 1)
    first, second = both.chunk(2, -1)
    cosine, sine = turn
    both = both * cosine + torch.cat((-second, first), -1) * sine
    query, key = both.tensor_split((attention.num_heads,), 1)
    keys, values = memory.update(key, value)
    found = attend_packed(query, keys, values, mask, attention.scaling)
    return found.view(1, 1, -1)


def one_token(model: Any) -> OneToken | None:
    """Return the fast step of a model whose attention is packed.

    None where it would not do just what the model does.
    """
    if not _is_plain(model):
        return None
    step = OneToken(model, joined=model.device.type != 'cpu' and _may_be_joined(model))
    if model.device.type == 'cuda':
        # The memory of the single matrices.
        torch.cuda.empty_cache()
    with onednn.needed():
        same = _same(model, step)
    if same:
        return step
    _logger.warning(
        'This release of transformers computes otherwise than the fast way to one token; answers '
        'are written the usual way, which is a little slower.'
    )
    return None


def _is_plain(model: Any) -> bool:
    """Return whether the layers are ordinary ones: not quantised, adapted, spread or windowed."""
    language = model.model.language_model
    config = language.config
    linears = [part for part in language.modules() if isinstance(part, nn.Linear)]
    return (
        config._attn_implementation == PACKED
        and config.hidden_act == 'silu'
        and all(type(part) is nn.Linear for part in linears)
        and len(linears) == 7 * len(language.layers)
        and len({(part.weight.dtype, part.weight.device) for part in linears}) == 1
        and not any(hasattr(part, '_hf_hook') for part in language.modules())
        and set(config.layer_types or ()) <= {'full_attention'}
    )


def _may_be_joined(model: Any) -> bool:
    """Return whether the weights are plain numbers, and not of a kind of their own."""
    linears = [
        getattr(layer.self_attn, name)
        for layer in model.model.language_model.layers
        for name in _LOOKING
    ]
    return all(type(part.weight) is nn.Parameter for part in linears)


@torch.inference_mode()
def _same(model: Any, step: OneToken) -> bool:
    """Return whether a few tokens give the same logits in both ways: on a CPU to the last bit."""
    language = model.model.language_model
    device = model.device
    ours, theirs = (roomy_cache(len(language.layers)) for _ in range(2))
    for number in range(_TRIED):
        ids = torch.tensor([[number]], device=device)
        positions = torch.full((3, 1, 1), number, device=device)
        hidden = language(
            input_ids=ids,
            position_ids=positions,
            attention_mask={'full_attention': None},
            past_key_values=theirs,
            use_cache=True,
        ).last_hidden_state
        expected = model.lm_head(hidden[:, -1]).float()
        off = step.read(ids, positions, ours).sub_(expected).norm()
        # Another way to sum rounds otherwise; what is computed wrongly is off by much more.
        allowed = 0.0 if device.type == 'cpu' else torch.finfo(model.dtype).eps ** 0.5
        if not off <= allowed * expected.norm():
            return False
    return True
