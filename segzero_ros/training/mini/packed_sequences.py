"""Packed sequences for SFT of the language model on features of a frozen vision tower.

All queries about a scene follow its image in one sequence, masked from each other, so that the
image is processed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import re
from typing import Any

import torch
from torch.nn import functional

from segzero_ros.training.mini.geometry import GRID, PATCH, SIDE, TOKENS
from segzero_ros.training.mini.sft_examples import SftExample
from segzero_ros.training.mini.vocabulary import (
    END,
    number_ids,
    START,
    VISION_END,
    VISION_START,
)

BEFORE = f'{START}user\n{VISION_START}'
AFTER = f'{VISION_END}'
TURN = f'{END}\n{START}assistant\n'
# A point in the reasoning, or a box with its point in the answer.
_POINT = r'\[(?P<x>\d+), (?P<y>\d+)\]'
_OBJECT = re.compile(rf'(?P<box>"bbox_2d": \[[\d, ]+\], "point_2d": )?{_POINT}')
# Standard deviation of a coordinate's soft target, pixels.
_TARGET_DEVIATION = 1.5


@dataclass(frozen=True)
class PackedSequence:
    """The queries about one scene as tokens.

    Attributes:
        ids: (L,) token ids of the queries and answers.
        positions: (L,) position within its own query.
        parts: (L,) index of its query.
        is_target: (L,) whether the next token counts for the loss.
        following: (L,) the next token.
        object: (L,) the image token of the object whose coordinate is next, or -1.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    parts: torch.Tensor
    is_target: torch.Tensor
    following: torch.Tensor
    object: torch.Tensor


class SequencePacker:
    """Packs examples into sequences."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.before = self._ids(BEFORE)
        self.after = self._ids(AFTER)
        self.size = len(tokenizer)
        self.numbers = number_ids(tokenizer)
        self._all_numbers = {token for each in self.numbers for token in each}

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text)['input_ids']
        return ids

    def sequence(self, examples: Sequence[SftExample]) -> PackedSequence:
        """Return the sequence of several examples about one scene."""
        ids: list[int] = []
        positions: list[int] = []
        parts: list[int] = []
        is_target: list[bool] = []
        following: list[int] = []
        objects: list[int] = []
        questions = [example.question + TURN for example in examples]
        answers = [example.answer + END for example in examples]
        # In one call, because of its overhead.
        tokens: list[list[int]] = self._tokenizer(questions + answers)['input_ids']
        for part, example in enumerate(examples):
            question = tokens[part]
            whole = question + tokens[len(examples) + part]
            ids += whole[:-1]
            following += whole[1:]
            positions += range(len(whole) - 1)
            parts += [part] * (len(whole) - 1)
            is_target += [position >= len(question) - 1 for position in range(len(whole) - 1)]
            tokens_of_objects = iter(object_tokens(example.answer))
            later = whole[len(question) :]
            objects += [-1] * (len(question) - 1)
            objects += [
                next(tokens_of_objects) if each in self._all_numbers else -1 for each in later
            ]
        columns = (ids, positions, parts, is_target, following, objects)
        return PackedSequence(*map(torch.tensor, columns))


def object_tokens(answer: str) -> list[int]:
    """Return for each coordinate of an answer the image token with its object's point."""
    tokens_of_objects = []
    for match in _OBJECT.finditer(answer):
        x, y = (min(int(match[name]), SIDE - 1) // PATCH for name in ('x', 'y'))
        tokens_of_objects += [y * GRID + x] * (2 + 4 * bool(match['box']))
    return tokens_of_objects


@dataclass(frozen=True)
class Batch:
    """A batch of packed sequences with their common prefix.

    Attributes:
        ids: (B, L) token ids; undefined for image tokens.
        positions: (3, B, L) time, row and column of each token.
        parts: (B, L) index of its query; -1 for the prefix, -2 for padding.
        is_target: (B, L) as in `PackedSequence`.
        following: (B, L) as in `PackedSequence`.
        object: (B, L) as in `PackedSequence`, counted from the start of the sequence.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    parts: torch.Tensor
    is_target: torch.Tensor
    following: torch.Tensor
    object: torch.Tensor


def batch_of(packer: SequencePacker, sequences: Sequence[PackedSequence]) -> Batch:
    """Return a batch of a packer's sequences, one for each image."""
    count, start = len(sequences), len(packer.before)
    longest = max(len(sequence.ids) for sequence in sequences)
    fore = start + TOKENS + len(packer.after)
    length = fore + longest
    ids = torch.zeros(count, length, dtype=torch.long)
    ids[:, :start] = torch.tensor(packer.before)
    ids[:, start + TOKENS : fore] = torch.tensor(packer.after)
    positions = torch.zeros(3, count, length)
    positions[:, :, :fore] = _prefix_positions(start, len(packer.after))[:, None]
    parts = torch.full((count, length), -2)
    parts[:, :fore] = -1
    is_target = torch.zeros(count, length, dtype=torch.bool)
    following = torch.zeros(count, length, dtype=torch.long)
    tokens_of_objects = torch.full((count, length), -1)
    for row, sequence in enumerate(sequences):
        here = slice(fore, fore + len(sequence.ids))
        ids[row, here], parts[row, here] = sequence.ids, sequence.parts
        positions[:, row, here] = sequence.positions.float() + start + GRID + len(packer.after)
        is_target[row, here], following[row, here] = sequence.is_target, sequence.following
        tokens_of_objects[row, here] = torch.where(
            sequence.object >= 0, sequence.object + start, -1
        )
    return Batch(ids, positions, parts, is_target, following, tokens_of_objects)


def embedded(
    embed: Any, packer: SequencePacker, batch: Batch, features: torch.Tensor
) -> torch.Tensor:
    """Return the (B, L, WIDTH) input embeddings of the language model.

    Args:
        embed: the model's token embedding.
        packer: of the sequences.
        batch: of the sequences.
        features: (B, TOKENS, WIDTH) of the images.
    """
    hidden, start = embed(batch.ids), len(packer.before)
    return torch.cat([hidden[:, :start], features, hidden[:, start + TOKENS :]], 1)


def _prefix_positions(start: int, after: int) -> torch.Tensor:
    """Return the (3, tokens) position ids of the prefix, as in Qwen2.5-VL."""
    cells = torch.arange(GRID)
    rows, columns = cells.repeat_interleave(GRID), cells.repeat(GRID)
    image = torch.stack([torch.zeros_like(rows), rows, columns]) + start
    first, last = torch.arange(start), torch.arange(after) + start + GRID
    return torch.cat([first.expand(3, -1), image, last.expand(3, -1)], 1).float()


def mask_of(parts: torch.Tensor) -> torch.Tensor:
    """Return the (B, 1, L, L) attention mask, 0 or -inf.

    Tokens attend to the prefix and to earlier tokens of their own query.
    """
    seen = (parts[:, None, :] == -1) | (parts[:, None, :] == parts[:, :, None])
    hidden = ~seen.tril()[:, None]
    return torch.zeros(hidden.shape, device=parts.device).masked_fill_(hidden, float('-inf'))


class Loss:
    """Cross-entropy with soft targets for coordinates."""

    def __init__(self, packer: SequencePacker, device: torch.device) -> None:
        self._numbers = torch.tensor(packer.numbers, device=device)
        count = SIDE + 1
        bins = torch.arange(count, device=device).float()
        self._soft = (-((bins[:, None] - bins) ** 2) / (2 * _TARGET_DEVIATION**2)).softmax(-1)
        self._value = torch.full((packer.size,), -1, device=device)
        self._value[self._numbers.flatten()] = torch.arange(2 * count, device=device)

    def __call__(self, logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of (N, vocabulary) logits for (N,) true tokens."""
        chances = functional.log_softmax(logits.float(), -1)
        value = self._value[following]
        numbers = value >= 0
        plain = functional.nll_loss(chances[~numbers], following[~numbers], reduction='sum')
        value, rows = value[numbers], chances[numbers]
        later, value = value > SIDE, value % (SIDE + 1)
        columns = self._numbers[later.long()]
        soft = -(rows.gather(1, columns) * self._soft[value]).sum()
        return (plain + soft) / len(following)
