"""Packed weights give the products of the float32 ones, or the layers stay as they are."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from test_fused_decode import make_model

from segzero_ros.reasoning import packed_linear
from segzero_ros.reasoning.fused_decode import fused_decode_step
from segzero_ros.reasoning.preallocated_cache import preallocated_cache

pytestmark = pytest.mark.skipif(
    'fbgemm' not in torch.backends.quantized.supported_engines, reason='torch has no FBGEMM here'
)


def bfloat16_weights(*shape: int) -> Any:
    return torch.randn(*shape).mul_(0.02).bfloat16().float()


@pytest.mark.parametrize('rows', [1, 6, 16, 100])
@pytest.mark.parametrize('biased', [False, True])
def test_products_are_those_of_the_float32_weights(rows: int, biased: bool) -> None:
    torch.manual_seed(0)
    weight, bias = bfloat16_weights(1024, 512), torch.randn(1024) if biased else None
    states = torch.randn(1, rows, 512)
    packed = packed_linear.pack(weight, bias)
    expected = torch.nn.functional.linear(states.double(), weight.double())
    if bias is not None:
        expected += bias.double()
    found = packed_linear.product(states, packed)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize(
    'weight',
    [
        torch.randn(1024, 512),
        bfloat16_weights(1024, 512).index_fill(0, torch.tensor([3]), float('nan')),
        bfloat16_weights(1024, 512).index_fill(0, torch.tensor([3]), 1e6),
        bfloat16_weights(1024, 512) * 2.0**-20,
        bfloat16_weights(1024, 512).bfloat16(),
        bfloat16_weights(128, 512),
    ],
    ids=['float32', 'NaN', 'too large', 'too small', 'another dtype', 'few'],
)
def test_weights_that_float16_cannot_hold_or_that_gain_nothing_stay(weight: Any) -> None:
    assert packed_linear.pack(weight, None) is None


def test_without_fbgemm_the_layers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, '_is_available', lambda: False)
    assert packed_linear.pack(bfloat16_weights(1024, 512), None) is None


@pytest.mark.parametrize('kind', ['qwen2_vl', 'qwen2_5_vl'])
def test_a_model_with_packed_weights_reads_and_writes_as_it_did(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_linear, '_MIN_WEIGHTS', 0)
    model, packed = (make_model(kind, (4, 2), torch.bfloat16).float() for _ in range(2))
    step = fused_decode_step(packed)
    assert step is not None
    layers = packed.model.language_model.layers
    layer = layers[0]
    for linear in (layer.self_attn.k_proj, layer.mlp.up_proj, layer.mlp.down_proj, packed.lm_head):
        assert type(linear) is packed_linear.PackedLinear
    language = [each.model.language_model for each in (model, packed)]
    caches = [preallocated_cache(len(layers)) for _ in range(2)]
    prompt, places = torch.randint(50, (1, 30)), torch.arange(30).expand(3, 1, -1)
    draft, after = torch.tensor([[7, 8, 9]]), torch.arange(30, 33).expand(3, 1, -1)
    with torch.inference_mode():
        states = [
            each(input_ids=prompt, position_ids=places, past_key_values=cache, use_cache=True)
            for each, cache in zip(language, caches, strict=True)
        ]
        assert_near(states[1].last_hidden_state, states[0].last_hidden_state)
        expected = model.lm_head(
            language[0](
                input_ids=draft, position_ids=after, past_key_values=caches[0], use_cache=True
            ).last_hidden_state[0]
        )
        assert_near(step(draft, after, caches[1]), expected)


def test_unpacked_layers_are_those_that_were_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, '_MIN_WEIGHTS', 0)
    model = make_model('qwen2_5_vl', (4, 2), torch.bfloat16).float()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert fused_decode_step(model) is not None
    assert len(model.state_dict()) < len(before)
    packed_linear.unpack_all(model)
    after = model.state_dict()
    assert set(after) == set(before)
    for name, weight in before.items():
        # What is too small for float16 is rounded.
        assert (after[name] - weight).abs().max() <= 2.0**-25


def assert_near(found: Any, expected: Any) -> None:
    assert (found - expected).norm() < 1e-4 * expected.norm()
