"""Drafts follow what was written before, leave new numbers alone, and forget in time."""

from __future__ import annotations

import json
import re

import pytest

from segzero_ros.reasoning import prompt_lookup
from segzero_ros.reasoning.detokenizer import numbers_of
from segzero_ros.reasoning.prompt_lookup import NgramSpeculator


class Tokens:
    """Texts as token numbers: words, single digits and signs."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> list[int]:
        found = []
        for piece in re.findall(r'\d| ?[a-z]+|\s|[^\w\s]|_', text):
            if piece not in self.texts:
                self.texts.append(piece)
            found.append(self.texts.index(piece))
        assert self.text(found) == text
        return found

    def text(self, tokens: list[int]) -> str:
        return ''.join(self.texts[token] for token in tokens)

    def is_number(self, token: int) -> bool:
        return self.texts[token].isdecimal()


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
def drafter(tokens: Tokens) -> NgramSpeculator:
    return NgramSpeculator(tokens.is_number)


def write(drafter: NgramSpeculator, answer: list[int]) -> list[int]:
    """Have an answer written with drafts; return how many tokens came of each step."""
    taken, steps = 0, []
    draft: list[int] = []
    while taken < len(answer):
        rest = answer[taken:]
        right = 0
        while right < min(len(draft), len(rest)) and draft[right] == rest[right]:
            right += 1
        said = rest[: right + 1]
        drafter.add(said)
        steps.append(len(said))
        taken += len(said)
        draft = drafter.draft()
    return steps


def test_a_list_in_the_questions_form_takes_a_step_for_each_digit(
    tokens: Tokens, drafter: NgramSpeculator
) -> None:
    example = [
        {'bbox_2d': [10, 100, 200, 210], 'point_2d': [30, 110]},
        {'bbox_2d': [225, 296, 706, 786], 'point_2d': [302, 410]},
    ]
    drafter.begin(tokens(f'answer in this form: <answer>{json.dumps(example)}</answer>'))
    items = [
        {'bbox_2d': [131, 242, 353, 464], 'point_2d': [575, 686]},
        {'bbox_2d': [717, 128, 839, 341], 'point_2d': [452, 563]},
        {'bbox_2d': [674, 785, 196, 217], 'point_2d': [328, 439]},
    ]
    answer = tokens(f'it is this one. <answer>{json.dumps(items)}</answer>')
    steps = write(drafter, answer)
    digits = 3 * 18
    prose = len(tokens('it is this one. <answer>'))
    # A number of two digits in the question, say, costs a step where one of three ends.
    assert digits <= len(steps) <= digits + prose + 6
    assert len(answer) > 2 * (len(steps) - prose)


def test_a_number_that_differed_is_guessed_only_at_the_end_of_a_draft(
    tokens: Tokens, drafter: NgramSpeculator
) -> None:
    drafter.begin(tokens('so the box is at 4 now'))
    drafter.add(tokens(' the box is'))
    assert tokens.text(drafter.draft()) == ' at 4'
    drafter.begin(tokens('so the box is at 5 now'))
    drafter.add(tokens(' the box is at '))
    assert drafter.draft() == []
    drafter.begin(tokens(4 * 'the box is at 4 now, ' + 'the box is at '))
    assert tokens.text(drafter.draft()).startswith('4 now, the box')


def test_wrong_drafts_make_the_next_ones_shorter(tokens: Tokens, drafter: NgramSpeculator) -> None:
    drafter.begin(tokens(' one two three four five six seven eight nine ten one two three'))
    assert tokens.text(drafter.draft()) == ' four five six seven eight nine ten one'
    drafter.add(tokens(' zero'))
    drafter.add(tokens(' one two three'))
    assert len(drafter.draft()) == 4


def test_an_earlier_answer_is_remembered_until_there_are_too_many(
    tokens: Tokens, drafter: NgramSpeculator, monkeypatch: pytest.MonkeyPatch
) -> None:
    question, answer = tokens('what is it?'), tokens('it is a very red box on a table')
    drafter.begin(question)
    assert write(drafter, answer) == [1] * len(answer)
    drafter.begin(question)
    assert len(write(drafter, answer)) < len(answer) / 2
    monkeypatch.setattr(prompt_lookup, '_MAX_CONTEXTS', 10)
    drafter.begin(question)
    assert write(drafter, answer) == [1] * len(answer)


def test_nothing_is_guessed_from_nothing(drafter: NgramSpeculator) -> None:
    assert drafter.draft() == []
    drafter.begin([])
    assert drafter.draft() == []


@pytest.mark.parametrize(
    ('text', 'number'),
    [
        ('7', True),
        (' 12', True),
        (', 106', True),
        ('bbox_2d', False),
        (' the', False),
        ('[', False),
    ],
)
def test_a_number_has_digits_and_no_letters(text: str, number: bool) -> None:
    class Tokenizer:
        def decode(self, tokens: list[int]) -> str:
            assert tokens == [5]
            return text

    assert numbers_of(Tokenizer())(5) is number
