"""Supervised warm start of the language model on features of a frozen vision tower.

All questions about a scene stand behind its one picture in one sequence, hidden from each other:
the picture is read once.
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
# A point in a thought, or a box with its point in an answer.
_POINT = r'\[(?P<x>\d+), (?P<y>\d+)\]'
_OBJECT = re.compile(rf'(?P<box>"bbox_2d": \[[\d, ]+\], "point_2d": )?{_POINT}')
# A coordinate that is nearly right is nearly as good: standard deviation of the target, pixels.
_SPREAD = 1.5


@dataclass(frozen=True)
class PackedSequence:
    """The questions about one scene as tokens.

    Attributes:
        ids: (L,) tokens of the questions and answers.
        places: (L,) number of each within its own question.
        parts: (L,) which question each belongs to.
        asked: (L,) whether the next token is to be learnt.
        following: (L,) the next token.
        object: (L,) the picture's token where the object lies whose coordinate is next, or -1.
    """

    ids: torch.Tensor
    places: torch.Tensor
    parts: torch.Tensor
    asked: torch.Tensor
    following: torch.Tensor
    object: torch.Tensor


class SequencePacker:
    """Makes sequences of examples; knows the tokens that are numbers."""

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
        """Return the sequence of some examples about one scene."""
        ids: list[int] = []
        places: list[int] = []
        parts: list[int] = []
        asked: list[bool] = []
        following: list[int] = []
        objects: list[int] = []
        questions = [example.question + TURN for example in examples]
        answers = [example.answer + END for example in examples]
        # All at once: a call costs more than its text.
        tokens: list[list[int]] = self._tokenizer(questions + answers)['input_ids']
        for part, example in enumerate(examples):
            question = tokens[part]
            whole = question + tokens[len(examples) + part]
            ids += whole[:-1]
            following += whole[1:]
            places += range(len(whole) - 1)
            parts += [part] * (len(whole) - 1)
            asked += [place >= len(question) - 1 for place in range(len(whole) - 1)]
            told = iter(objects_told(example.answer))
            later = whole[len(question) :]
            objects += [-1] * (len(question) - 1)
            objects += [next(told) if each in self._all_numbers else -1 for each in later]
        columns = (ids, places, parts, asked, following, objects)
        return PackedSequence(*map(torch.tensor, columns))


def objects_told(answer: str) -> list[int]:
    """Return for each number of an answer the picture's token in which its object's point lies."""
    told = []
    for match in _OBJECT.finditer(answer):
        x, y = (min(int(match[name]), SIDE - 1) // PATCH for name in ('x', 'y'))
        told += [y * GRID + x] * (2 + 4 * bool(match['box']))
    return told


@dataclass(frozen=True)
class Batch:
    """Sheets side by side, what stands before the questions included.

    Attributes:
        ids: (B, L) tokens; where the picture stands they mean nothing.
        positions: (3, B, L) time, row and column of each token.
        parts: (B, L) which question each belongs to: -1 before them all, -2 behind them.
        asked: (B, L) as in `PackedSequence`.
        following: (B, L) as in `PackedSequence`.
        object: (B, L) as in `PackedSequence`, counted from the sequence's beginning.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    parts: torch.Tensor
    asked: torch.Tensor
    following: torch.Tensor
    object: torch.Tensor


def batch_of(writer: SequencePacker, sequences: Sequence[PackedSequence]) -> Batch:
    """Return a batch of the sequences that a writer made, one for each picture."""
    count, start = len(sequences), len(writer.before)
    longest = max(len(sequence.ids) for sequence in sequences)
    fore = start + TOKENS + len(writer.after)
    length = fore + longest
    ids = torch.zeros(count, length, dtype=torch.long)
    ids[:, :start] = torch.tensor(writer.before)
    ids[:, start + TOKENS : fore] = torch.tensor(writer.after)
    places = torch.zeros(3, count, length)
    places[:, :, :fore] = _prefix_positions(start, len(writer.after))[:, None]
    parts = torch.full((count, length), -2)
    parts[:, :fore] = -1
    asked = torch.zeros(count, length, dtype=torch.bool)
    following = torch.zeros(count, length, dtype=torch.long)
    told = torch.full((count, length), -1)
    for row, sequence in enumerate(sequences):
        here = slice(fore, fore + len(sequence.ids))
        ids[row, here], parts[row, here] = sequence.ids, sequence.parts
        places[:, row, here] = sequence.places.float() + start + GRID + len(writer.after)
        asked[row, here], following[row, here] = sequence.asked, sequence.following
        told[row, here] = torch.where(sequence.object >= 0, sequence.object + start, -1)
    return Batch(ids, places, parts, asked, following, told)


def embedded(
    embed: Any, writer: SequencePacker, batch: Batch, features: torch.Tensor
) -> torch.Tensor:
    """Return (B, L, WIDTH) what the language model reads.

    Args:
        embed: the model's token embedding.
        writer: that made the sequences.
        batch: of the sequences.
        features: (B, TOKENS, WIDTH) of the pictures.
    """
    hidden, start = embed(batch.ids), len(writer.before)
    return torch.cat([hidden[:, :start], features, hidden[:, start + TOKENS :]], 1)


def _prefix_positions(start: int, after: int) -> torch.Tensor:
    """Return (3, tokens) places of what stands before the questions, as Qwen2.5-VL counts."""
    cells = torch.arange(GRID)
    rows, columns = cells.repeat_interleave(GRID), cells.repeat(GRID)
    image = torch.stack([torch.zeros_like(rows), rows, columns]) + start
    first, last = torch.arange(start), torch.arange(after) + start + GRID
    return torch.cat([first.expand(3, -1), image, last.expand(3, -1)], 1).float()


def mask_of(parts: torch.Tensor) -> torch.Tensor:
    """Return (B, 1, L, L): a token sees what stands before the questions, and its own question.

    It is 0 where a token sees another, -inf elsewhere.
    """
    seen = (parts[:, None, :] == -1) | (parts[:, None, :] == parts[:, :, None])
    hidden = ~seen.tril()[:, None]
    return torch.zeros(hidden.shape, device=parts.device).masked_fill_(hidden, float('-inf'))


class Loss:
    """How far the answers are from the examples; near misses of a coordinate count less."""

    def __init__(self, writer: SequencePacker, device: torch.device) -> None:
        self._numbers = torch.tensor(writer.numbers, device=device)
        count = SIDE + 1
        bins = torch.arange(count, device=device).float()
        self._soft = (-((bins[:, None] - bins) ** 2) / (2 * _SPREAD**2)).softmax(-1)
        self._value = torch.full((writer.size,), -1, device=device)
        self._value[self._numbers.flatten()] = torch.arange(2 * count, device=device)

    def __call__(self, logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """Return the mean over (N,) true tokens of (N, vocabulary) logits."""
        chances = functional.log_softmax(logits.float(), -1)
        value = self._value[following]
        numbers = value >= 0
        plain = functional.nll_loss(chances[~numbers], following[~numbers], reduction='sum')
        value, rows = value[numbers], chances[numbers]
        later, value = value > SIDE, value % (SIDE + 1)
        columns = self._numbers[later.long()]
        soft = -(rows.gather(1, columns) * self._soft[value]).sum()
        return (plain + soft) / len(following)
