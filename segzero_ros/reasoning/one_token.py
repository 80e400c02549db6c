"""Reading one more token without the modules around the arithmetic: a CPU's fast way to decode.

For one token a language model's time goes into reading weights, and into calling its modules,
some twenty a layer. Here the same operations follow each other in one function. The logits are the
model's own to the last bit, which is tried out before it is used: another release of transformers
may compute otherwise. (One matrix for queries, keys and values would be faster still, but rounds
otherwise once in a hundred tokens.) Imports torch, `packed_attention` and `roomy_cache`.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from segzero_ros.reasoning.packed_attention import attend_packed, PACKED
from segzero_ros.reasoning.roomy_cache import roomy_cache

# Tokens that are read on trial.
_TRIED = 4
_logger = logging.getLogger(__name__)


class OneToken:
    """The step of one token of a Qwen2-VL or Qwen2.5-VL on a CPU."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._language = model.model.language_model
        # Looking a part up in its module takes as long as a small operation.
        self._layers = [
            (
                layer.input_layernorm.weight,
                layer.self_attn,
                _weights(layer.self_attn, ('q_proj', 'k_proj', 'v_proj', 'o_proj')),
                layer.post_attention_layernorm.weight,
                _weights(layer.mlp, ('gate_proj', 'up_proj', 'down_proj')),
            )
            for layer in self._language.layers
        ]
        self._epsilon = self._language.norm.variance_epsilon

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Read a token; return the logits after it, (1, vocabulary) float32.

        Args:
            ids: (1, 1) the token.
            positions: (3, 1, 1) its place.
            cache: what was read before; it grows by one.
        """
        hidden = self._language.embed_tokens(ids)
        cosine, sine = self._language.rotary_emb(hidden, positions)
        turn = cosine.unsqueeze(1), sine.unsqueeze(1)
        for layer, memory in zip(self._layers, cache.layers, strict=True):
            before, attention, looking, between, (gate, value, outward) = layer
            normed = self._normed(hidden, before)
            hidden = hidden + _look(attention, looking, normed, turn, memory)
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


def _look(
    attention: Any,
    looking: list[_Linear],
    normed: torch.Tensor,
    turn: tuple[torch.Tensor, torch.Tensor],
    memory: Any,
) -> torch.Tensor:
    """Return (1, 1, width) what attention finds."""
    *parts, back = looking
    query, key, value = (
        functional.linear(normed, *part).view(1, 1, -1, attention.head_dim).transpose(1, 2)
        for part in parts
    )
    # Turned together: for one token operations cost more than numbers.
    both = torch.cat((query, key), 1)
    first, second = both.chunk(2, -1)
    cosine, sine = turn
    both = both * cosine + torch.cat((-second, first), -1) * sine
    query, key = both.tensor_split((attention.num_heads,), 1)
    keys, values = memory.update(key, value)
    found = attend_packed(query, keys, values, None, attention.scaling)
    return functional.linear(found.view(1, 1, -1), *back)


def one_token(model: Any) -> OneToken | None:
    """Return the fast step of a model whose attention is packed.

    None where it would not do just what the model does.
    """
    if model.device.type != 'cpu' or not _is_plain(model):
        return None
    step = OneToken(model)
    if _same(model, step):
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


@torch.inference_mode()
def _same(model: Any, step: OneToken) -> bool:
    """Return whether a few tokens give the same logits, to the last bit, in both ways."""
    language = model.model.language_model
    ours, theirs = (roomy_cache(len(language.layers)) for _ in range(2))
    for number in range(_TRIED):
        ids = torch.tensor([[number]])
        positions = torch.full((3, 1, 1), number)
        hidden = language(
            input_ids=ids,
            position_ids=positions,
            attention_mask={'full_attention': None},
            past_key_values=theirs,
            use_cache=True,
        ).last_hidden_state
        if not torch.equal(step(ids, positions, ours), model.lm_head(hidden[:, -1]).float()):
            return False
    return True
