"""The router by a text model: its published prompt and reading, on a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from segzero_ros.reasoning import model_router
from segzero_ros.reasoning.base import never
from segzero_ros.reasoning.model_router import ModelRouter
from segzero_ros.reasoning.router import route_by_rules
from segzero_ros.reasoning.router_prompt import PROMPT, task_of
from segzero_ros.types import Cancelled, ReasonerUnavailable, Task

LIMIT = 24


@pytest.mark.parametrize(
    ('reply', 'task'),
    [
        ('#### 1', Task.SEGMENT),
        ('The task type is: 2', Task.COUNT),
        ('It asks for 2 objects, so it is counting.\n#### 2', Task.COUNT),
        # The last digit decides, whatever it stands for.
        ('#### 2, since there are 4 of them', Task.ANSWER),
        ('#### 3', Task.ANSWER),
        ('#### 4', Task.ANSWER),
        ('#### 7', None),
        ('Counting', Task.COUNT),
        ('Not counting but Segmentation/detection', Task.SEGMENT),
        ('Caption/QA', Task.ANSWER),
        ('', None),
        ('I do not know', None),
    ],
)
def test_replies_are_read_as_published(reply: str, task: Task | None) -> None:
    assert task_of(reply) is task


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny random Qwen2 with a byte-level tokenizer and the published chat markers."""
    from tokenizers import models, pre_tokenizers, Tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token='<|im_end|>',
        additional_special_tokens=['<|im_start|>'],
        chat_template='{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}'
        '<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}',
    )
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=1024,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp('router')
    model: Any = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def short_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model writes to the limit."""
    monkeypatch.setattr(model_router, 'MAX_NEW_TOKENS', LIMIT)


@pytest.fixture(scope='module')
def router(checkpoint: Path) -> ModelRouter:
    return ModelRouter(str(checkpoint), 'cpu', offline=True)


def test_the_task_is_what_plain_generate_replies(router: ModelRouter, checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for query in ('How many cups are there?', 'the red cup'):
        text = (
            '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful '
            f'assistant.<|im_end|>\n<|im_start|>user\n{PROMPT}{{}}<|im_end|>\n'
            '<|im_start|>assistant\n'
        )
        ids = tokenizer(text.format(query), return_tensors='pt')
        tokens = model.generate(**ids, do_sample=False, max_new_tokens=LIMIT)
        written = tokens[0, ids['input_ids'].shape[1] :]
        reply = tokenizer.decode(written, skip_special_tokens=True)
        assert router.reply(query, never) == reply
        assert router(query, never) is (task_of(reply) or route_by_rules(query))


def test_a_cancel_stops_it_at_the_next_token(router: ModelRouter) -> None:
    asked: list[bool] = []

    def cancelled() -> bool:
        asked.append(True)
        return True

    with pytest.raises(Cancelled):
        router('the red cup', cancelled)
    assert len(asked) == 2


def test_a_router_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ReasonerUnavailable, match='no folder'):
        ModelRouter(str(tmp_path / 'nowhere'), 'cpu', offline=True)
    with pytest.raises(ReasonerUnavailable, match=r'router .* cannot be loaded \('):
        ModelRouter(str(tmp_path), 'cpu', offline=True)
    with pytest.raises(ReasonerUnavailable, match='since offline is set'):
        ModelRouter('nobody/router', 'cpu', offline=True)
