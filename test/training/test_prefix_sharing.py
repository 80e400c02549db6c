"""Answers to one question share it: the same numbers and gradients as computed row by row."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from segzero_ros.reasoning.gqa_decode_attention import use_gqa_decode_attention
from segzero_ros.training.prefix_sharing import share_prefixes

# Pictures and questions by number, shuffled as the trainer does before losses are computed.
ROWS = [(0, 0), (1, 1), (0, 1), (0, 0), (0, 1), (1, 1), (0, 0)]
GROUPS = 3


@pytest.fixture(params=['tiny_qwen2_5_vl', 'tiny_qwen2_vl'])
def folder(request: Any) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, attn_implementation='sdpa').eval()


@pytest.fixture
def asked(folder: Path) -> dict[str, Any]:
    """Return questions of two lengths about two pictures, padded on the left."""
    return asking(folder, 'the red box', 'the blue box that is left of the red box')


def asking(folder: Path, *questions: str) -> dict[str, Any]:
    processor = AutoProcessor.from_pretrained(folder, padding_side='left')
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (112, 112, 3), np.uint8)) for _ in range(2)]
    texts = [
        processor.apply_chat_template(
            [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': question}]}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for question in questions
    ]
    return dict(
        processor(
            text=[texts[question] for _, question in ROWS],
            images=[pictures[picture] for picture, _ in ROWS],
            padding=True,
            return_tensors='pt',
        )
    )


@pytest.fixture
def answered(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the questions with answers of different lengths, padded on the right."""
    torch.manual_seed(0)
    image = int(asked['input_ids'][0].mode().values)
    answers = torch.randint(5, 40, (len(ROWS), 12))
    answers[answers == image] = 4
    # Two answers are the same, and two begin alike.
    answers[3], answers[6, :4] = answers[0], answers[0, :4]
    counted = torch.ones_like(answers)
    for row in range(len(ROWS)):
        counted[row, 5 + row :] = 0
    whole = asked | {
        'input_ids': torch.cat([asked['input_ids'], answers], 1),
        'attention_mask': torch.cat([asked['attention_mask'], counted], 1),
    }
    if 'mm_token_type_ids' in asked:
        kinds = asked['mm_token_type_ids']
        whole['mm_token_type_ids'] = torch.cat([kinds, torch.zeros_like(answers)], 1)
    return whole


def scored(model: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the logits of what counts, and the gradients of a loss of them."""
    model.zero_grad()
    logits = model(**batch, use_cache=False).logits[batch['attention_mask'].bool()]
    logits.log_softmax(-1)[:, 7].sum().backward()
    grown = {name: weight.grad for name, weight in model.named_parameters()}
    return logits.detach(), {name: g.clone() for name, g in grown.items() if g is not None}


def watched(module: Any) -> list[tuple[int, ...]]:
    """Return a list that gets the shape of all that a layer computes."""
    shapes: list[tuple[int, ...]] = []
    module.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    return shapes


def test_answers_are_scored_as_row_by_row(model, answered):
    wanted, gradients = scored(model, answered)
    tokens, patches = watched(model.model.language_model.layers[0]), watched(model.model.visual)
    share_prefixes(model.model)
    given, found = scored(model, answered)
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        error = (found[name] - gradient).norm() / (gradient.norm() + 1e-9)
        assert error < 1e-4, name
    assert [shape[0] for shape in tokens] == [GROUPS]
    of_one = len(answered['pixel_values']) // len(ROWS)
    assert [shape[0] for shape in patches] == [GROUPS * of_one]


def test_an_answer_does_not_see_another(model, answered):
    share_prefixes(model.model)
    before = model(**answered, use_cache=False).logits
    other = dict(answered, input_ids=answered['input_ids'].clone())
    other['input_ids'][0, -12:] = 9
    after = model(**other, use_cache=False).logits
    counts = answered['attention_mask'].bool()
    torch.testing.assert_close(after[1:][counts[1:]], before[1:][counts[1:]])
    assert not torch.allclose(after[0][counts[0]], before[0][counts[0]])


def check_the_same_is_written(model: Any, asked: dict[str, Any]) -> None:
    plain = model.generate(**asked, min_new_tokens=10, max_new_tokens=10, do_sample=False)
    tokens = watched(model.model.language_model.layers[0])
    share_prefixes(model.model)
    use_gqa_decode_attention(model)
    shared = model.generate(**asked, min_new_tokens=10, max_new_tokens=10, do_sample=False)
    assert torch.equal(shared, plain)
    assert [shape[0] for shape in tokens[:2]] == [GROUPS, len(ROWS)]


def test_the_same_answers_are_written(model, asked):
    check_the_same_is_written(model, asked)


def test_questions_of_one_length_about_one_picture_are_read_once_each(model, folder):
    # Alike beyond the picture, to the token, and yet not the same.
    asked = asking(folder, 'the red box left of the can', 'the can left of the red box')
    first, other = (asked['input_ids'][row] for row in (0, 2))
    assert asked['attention_mask'].all()
    assert sorted(first.tolist()) == sorted(other.tolist())
    assert not torch.equal(first, other)
    check_the_same_is_written(model, asked)


def test_what_nothing_is_shared_in_goes_as_before(model, answered):
    rows = [0, 1, 2]
    pixels = answered['pixel_values'].chunk(len(ROWS))
    few = {name: value[rows] for name, value in answered.items() if name != 'pixel_values'}
    few['pixel_values'] = torch.cat([pixels[row] for row in rows])
    wanted = model(**few, use_cache=False).logits
    share_prefixes(model.model)
    assert torch.equal(model(**few, use_cache=False).logits, wanted)


def test_other_ways_of_asking_are_left_alone():
    asked = []
    backbone = SimpleNamespace(
        forward=lambda **named: asked.append(named), config=SimpleNamespace(image_token_id=3)
    )
    share_prefixes(backbone)
    one = torch.ones(2, 3, dtype=torch.long)
    # No pictures; prepared embeddings; a mask of one's own.
    ways = ({'input_ids': one}, {'inputs_embeds': one}, {'input_ids': one, 'attention_mask': None})
    for way in ways:
        backbone.forward(**way)
    assert asked == list(ways)
