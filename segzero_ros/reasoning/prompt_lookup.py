"""Guessing an answer's next tokens from what was written before, for the model to check at once.

An answer's list has a form: after a box always comes the same text, and only the numbers are new.
Reading several tokens costs a model little more than reading one, since the time goes into
fetching its weights; so what is likely to follow is read together, and kept as far as the model
itself would have written it. Known as prompt lookup decoding (Saxena, 2023), without a second
model; numbers, which are what differs, are told apart from what surrounds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# So many tokens before a place recognise it; the most that are known decide. From the name of a
# box's field to the end of its second number are nine, if each sign is a token.
_LENGTHS = (12, 8, 5, 3)
# Tokens of a draft: at least and at most, while there is something to guess, and to begin with.
# With the one before them the most are a tile's 16 rows.
_LEAST, _MOST, _FIRST = 4, 15, 8
# Places that are remembered; then all are forgotten, so that memory is bounded.
_REMEMBERED = 20_000
# In place of a number's tokens: one for a whole number, and one for each beginning.
_NUMBER = -1


class NgramSpeculator:
    """Remembers what followed what, in questions and answers, and guesses what follows now."""

    def __init__(self, is_number: Callable[[int], bool]) -> None:
        """`is_number` says of a token whether it is, or belongs to, a number."""
        self._is_number = is_number
        # By the tokens before a place: what came the last time, and the time before.
        self._followed: dict[tuple[int, ...], tuple[int, int | None]] = {}
        self._before: list[int] = []
        # How much of the last draft was expected to be right.
        self._expected = 0
        self._bold = _FIRST

    def begin(self, tokens: Sequence[int]) -> None:
        """Take a question's tokens; its answer is written next."""
        if len(self._followed) > _REMEMBERED:
            self._followed.clear()
        self._before = []
        self._expected = 0
        self._bold = _FIRST
        self._remember(tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """Take what was written: so much of the last draft as was right, and one token more."""
        right = len(tokens) - 1
        if self._expected:
            met = right >= self._expected
            self._bold = min(2 * self._bold, _MOST) if met else max(_LEAST, right)
        self._expected = 0
        self._remember(tokens)

    def draft(self) -> list[int]:
        """Return what is likely to be written next: no tokens to 15."""
        tokens: list[int] = []
        before = list(self._before)
        while len(tokens) < self._bold and (known := self._known(before)) is not None:
            last, earlier = known
            # Numbers differ, unless they belong to a word, as in bbox_2d.
            if self._is_number(last) and last != earlier:
                # But behind others a token more costs next to nothing.
                return [*tokens, last] if tokens else []
            tokens.append(last)
            self._expected = len(tokens)
            self._append(before, last)
        return tokens

    def _known(self, before: list[int]) -> tuple[int, int | None] | None:
        """Return what followed here the last time, and the time before that."""
        for length in _LENGTHS:
            if len(before) >= length and tuple(before[-length:]) in self._followed:
                return self._followed[tuple(before[-length:])]
        return None

    def _remember(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            for length in _LENGTHS:
                if len(self._before) >= length:
                    place = tuple(self._before[-length:])
                    last, _ = self._followed.get(place, (None, None))
                    self._followed[place] = token, last
            self._append(self._before, token)

    def _append(self, before: list[int], token: int) -> None:
        """Add a token to what stands before a place; numbers count by their tokens alone."""
        counting = bool(before) and before[-1] < _NUMBER
        if self._is_number(token):
            if counting:
                before[-1] -= 1
            else:
                before.append(_NUMBER - 1)
        else:
            if counting:
                before[-1] = _NUMBER
            before.append(token)
        del before[: -_LENGTHS[0]]
