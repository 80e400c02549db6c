"""The fast way to a few tokens does what the model does, or is not taken."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from segzero_ros import onednn
from segzero_ros.reasoning.base import FastPathError
from segzero_ros.reasoning.fused_decode import (
    fused_decode_step,
    FusedDecodeStep,
    linear_weight_stationary,
)
from segzero_ros.reasoning.gqa_decode_attention import (
    attend_in_blocks,
    KV_BLOCK,
    use_gqa_decode_attention,
)
from segzero_ros.reasoning.preallocated_cache import preallocated_cache

HEADS = [(4, 4), (4, 2), (4, 1)]


def make_model(kind: str, heads: tuple[int, int], dtype: Any) -> Any:
    """Return a small random model, its attention packed."""
    torch.manual_seed(0)
    text = {
        'vocab_size': 50,
        'hidden_size': 64,
        'intermediate_size': 96,
        'num_hidden_layers': 3,
        'num_attention_heads': heads[0],
        'num_key_value_heads': heads[1],
        'rope_parameters': {
            'rope_type': 'default', 'rope_theta': 10_000.0, 'mrope_section': [2, 3, 3],
        },
    }  # fmt: skip
    if kind == 'qwen2_5_vl':
        eyes = {'depth': 1, 'hidden_size': 32, 'num_heads': 2, 'out_hidden_size': 64}
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=eyes)
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    else:
        eyes = {'depth': 1, 'embed_dim': 32, 'num_heads': 2, 'hidden_size': 64}
        config = transformers.Qwen2VLConfig(text_config=text, vision_config=eyes)
        model = transformers.Qwen2VLForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            # What is made without training is too small to tell anything apart.
            weight.mul_(4).add_(torch.randn_like(weight), alpha=0.02)
    use_gqa_decode_attention(model)
    return model.to(dtype).eval()


@pytest.mark.parametrize('kind', ['qwen2_vl', 'qwen2_5_vl'])
@pytest.mark.parametrize('heads', HEADS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_logits_are_the_models_own(kind: str, heads: tuple[int, int], dtype: Any) -> None:
    model = make_model(kind, heads, dtype)
    assert fused_decode_step(make_model(kind, heads, dtype)) is not None
    step = FusedDecodeStep(model, concatenated=False)
    language = model.model.language_model
    ours, theirs = (preallocated_cache(len(language.layers)) for _ in range(2))
    prompt = torch.randint(50, (1, 30))
    places = torch.arange(30).expand(3, 1, -1)
    with torch.inference_mode():
        for cache in (ours, theirs):
            language(input_ids=prompt, position_ids=places, past_key_values=cache, use_cache=True)
        for number in range(40):
            ids = torch.tensor([[number]])
            positions = torch.full((3, 1, 1), 30 + number)
            hidden = language(
                input_ids=ids, position_ids=positions, past_key_values=theirs, use_cache=True
            ).last_hidden_state
            expected = model.lm_head(hidden[:, -1]).float()
            assert torch.equal(step.read(ids, positions, ours), expected)


@pytest.mark.parametrize('kind', ['qwen2_vl', 'qwen2_5_vl'])
@pytest.mark.parametrize('heads', HEADS)
@pytest.mark.parametrize('static', [False, True])
@pytest.mark.parametrize('tiles', [False, True])
def test_several_tokens_together_are_read_as_one_after_the_other(
    kind: str,
    heads: tuple[int, int],
    static: bool,
    tiles: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model(kind, heads, torch.float32)
    # With the weights on the left, as a CPU with tiles is faster at 16 bits.
    monkeypatch.setattr(onednn, 'has_tiles_for', lambda _: tiles)
    step = FusedDecodeStep(model, concatenated=tiles)

    def cache() -> Any:
        if static:
            return transformers.StaticCache(model.config.get_text_config(), 2 * KV_BLOCK)
        return preallocated_cache(3)

    single, together = cache(), cache()
    ids = torch.randint(50, (1, 60))
    places = torch.arange(60).expand(3, 1, -1)
    parts = [range(30), range(30, 31), range(31, 38), range(38, 54), range(54, 60)]
    with torch.inference_mode():
        expected = torch.cat([step(ids[:, [at]], places[..., [at]], single) for at in range(60)])
        for part in parts:
            logits = step(ids[:, part], places[..., part], together)
            assert logits.shape == (len(part), 50)
            torch.testing.assert_close(logits, expected[part], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('heads', HEADS)
def test_the_faster_kernels_round_otherwise_and_no_more(
    heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, 'worth_avoiding', lambda _: True)
    model = make_model('qwen2_5_vl', heads, torch.bfloat16)
    step = fused_decode_step(model)
    assert step is not None
    usual, faster = preallocated_cache(3), preallocated_cache(3)
    head, seen = model.lm_head.forward, []

    def compute(hidden: Any) -> Any:
        seen.append(bool(torch.backends.mkldnn.enabled))
        return head(hidden)

    monkeypatch.setattr(model.lm_head, 'forward', compute)
    with torch.inference_mode():
        for number in range(20):
            ids, positions = torch.tensor([[number]]), torch.full((3, 1, 1), number)
            expected = step.read(ids, positions, usual)
            assert (step(ids, positions, faster) - expected).norm() <= 0.02 * expected.norm()
    # With it when read as the model itself reads, without it when called.
    assert seen == 20 * [True, False]
    assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize('kind', ['qwen2_vl', 'qwen2_5_vl'])
@pytest.mark.parametrize('heads', HEADS)
def test_one_matrix_and_a_static_cache_give_the_same_but_for_rounding(
    kind: str, heads: tuple[int, int]
) -> None:
    model = make_model(kind, heads, torch.float32)
    held = sum(weight.numel() for weight in model.parameters())
    plain = FusedDecodeStep(model, concatenated=False)
    growing = preallocated_cache(3)
    static = transformers.StaticCache(model.config.get_text_config(), 2 * KV_BLOCK)
    prompt = torch.randint(50, (1, 30))
    places = torch.arange(30).expand(3, 1, -1)
    read = {'input_ids': prompt, 'position_ids': places, 'use_cache': True}
    with torch.inference_mode():
        expected = []
        model.model.language_model(**read, past_key_values=growing)
        for number in range(20):
            ids, positions = torch.tensor([[number]]), torch.full((3, 1, 1), 30 + number)
            expected.append(plain(ids, positions, growing))
        joined = FusedDecodeStep(model, concatenated=True)
        # The model's own matrices are parts of the joined ones by now.
        attention = model.model.language_model.layers[1].self_attn
        matrix, _ = joined._layers[1][2][0]
        assert attention.k_proj.weight.untyped_storage().data_ptr() == matrix.data_ptr()
        gate = model.model.language_model.layers[1].mlp.gate_proj
        (matrix, _), *rest = joined._layers[1][5]
        assert (gate.weight.untyped_storage().data_ptr(), rest) == (matrix.data_ptr(), [])
        assert sum(weight.numel() for weight in model.parameters()) == held
        model.model.language_model(**read, past_key_values=static)
        for number in range(20):
            ids, positions = torch.tensor([[number]]), torch.full((3, 1, 1), 30 + number)
            logits = joined(ids, positions, static)
            torch.testing.assert_close(logits, expected[number], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('length', [1, KV_BLOCK, 3 * KV_BLOCK - 1])
def test_attention_in_parts_is_attention(dtype: Any, length: int) -> None:
    torch.manual_seed(length)
    query = torch.randn(2, 4, 7, 16, dtype=dtype)
    key, value = torch.randn(2, 2, 4, 3 * KV_BLOCK, 16, dtype=dtype)
    mask = (torch.arange(3 * KV_BLOCK) < length).expand(2, 1, 1, -1)
    # What lies behind counts for nothing.
    key[:, :, length:] = value[:, :, length:] = 1e4
    exact = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=mask, scale=0.25
    )
    in_parts = attend_in_blocks(query, key, value, mask, 0.25)
    assert in_parts.dtype == dtype
    allowed = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(in_parts.double(), exact, rtol=allowed, atol=allowed)


@pytest.mark.parametrize('count', [2, 7, 16])
@pytest.mark.parametrize('bias', [False, True])
def test_products_with_the_weights_on_the_left_are_the_usual_ones(count: int, bias: bool) -> None:
    torch.manual_seed(count)
    layer = torch.nn.Linear(96, 160, bias=bias, dtype=torch.bfloat16)
    rows = torch.randn(1, count, 96, dtype=torch.bfloat16)
    with torch.inference_mode():
        found, usual = linear_weight_stationary(rows, layer.weight, layer.bias), layer(rows)
    assert (found.shape, found.dtype) == (usual.shape, usual.dtype)
    torch.testing.assert_close(found, usual, rtol=2e-2, atol=1e-2)


class _Quantised(torch.nn.Linear):
    """A layer of another kind, as quantisation and adapters put in."""


def test_layers_of_another_kind_are_left_alone() -> None:
    model = make_model('qwen2_5_vl', (4, 2), torch.float32)
    model.model.language_model.layers[1].mlp.up_proj = _Quantised(64, 96, bias=False)
    assert fused_decode_step(model) is None


def test_a_model_that_computes_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model('qwen2_5_vl', (4, 2), torch.float32)
    norm = type(model.model.language_model.norm)
    plain = norm.forward
    monkeypatch.setattr(norm, 'forward', lambda self, states: plain(self, states) * 1.001)
    with pytest.raises(FastPathError, match='fused decode step computes otherwise'):
        fused_decode_step(model)


def test_a_model_that_reads_several_tokens_otherwise_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(onednn, 'has_tiles_for', lambda _: True)
    monkeypatch.setattr(
        'segzero_ros.reasoning.fused_decode.linear_weight_stationary',
        lambda *parts: 1.01 * linear_weight_stationary(*parts),
    )
    with pytest.raises(FastPathError, match='computes otherwise'):
        fused_decode_step(make_model('qwen2_5_vl', (4, 2), torch.float32))
