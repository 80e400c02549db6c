"""Prompt lookup decoding (Saxena, 2023): draft an answer's next tokens from earlier text.

The objects of an answer have a fixed form in which only the numbers differ. A step with several
tokens costs little more than one, because it is bound by reading weights; so drafted tokens are
checked in one step, and accepted as far as the model agrees. Numbers are drafted separately from
the text around them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# Lengths of the n-grams that are looked up, longest first. From the name of a box's field to the
# end of its second number are nine tokens, if each character is one.
_CONTEXT_LENGTHS = (12, 8, 5, 3)
# Tokens of a draft: minimum, maximum and initial number. The maximum and the token before it fill
# the 16 rows of an AMX tile.
_MIN_DRAFT, _MAX_DRAFT, _FIRST_DRAFT = 4, 15, 8
# N-grams that are stored before all are dropped, so that memory is bounded.
_MAX_CONTEXTS = 20_000
# Replaces a number's tokens in a context: -1 for a complete number, below for an incomplete one.
_NUMBER = -1


class NgramSpeculator:
    """Stores which token followed which n-gram in questions and answers, and drafts from it."""

    def __init__(self, is_number: Callable[[int], bool]) -> None:
        """`is_number` returns whether a token is a number or part of one."""
        self._is_number = is_number
        # By n-gram: the token that followed last, and the one before that.
        self._continuations: dict[tuple[int, ...], tuple[int, int | None]] = {}
        self._context: list[int] = []
        # How many tokens of the last draft were expected to be accepted.
        self._expected = 0
        self._draft_len = _FIRST_DRAFT

    def begin(self, tokens: Sequence[int]) -> None:
        """Start an answer with its question's tokens."""
        if len(self._continuations) > _MAX_CONTEXTS:
            self._continuations.clear()
        self._context = []
        self._expected = 0
        self._draft_len = _FIRST_DRAFT
        self._remember(tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """Add the accepted tokens of the last draft and the model's own token after them."""
        accepted_tokens = len(tokens) - 1
        if self._expected:
            accepted_all = accepted_tokens >= self._expected
            self._draft_len = (
                min(2 * self._draft_len, _MAX_DRAFT)
                if accepted_all
                else max(_MIN_DRAFT, accepted_tokens)
            )
        self._expected = 0
        self._remember(tokens)

    def draft(self) -> list[int]:
        """Return the likely next tokens, 0 to 15."""
        tokens: list[int] = []
        context = list(self._context)
        while len(tokens) < self._draft_len and (known := self._known(context)) is not None:
            last, earlier = known
            # Numbers differ, unless they belong to a word, as in bbox_2d.
            if self._is_number(last) and last != earlier:
                # After others, one more token costs next to nothing.
                return [*tokens, last] if tokens else []
            tokens.append(last)
            self._expected = len(tokens)
            self._append(context, last)
        return tokens

    def _known(self, context: list[int]) -> tuple[int, int | None] | None:
        """Return the last token that followed this context, and the one before that."""
        for length in _CONTEXT_LENGTHS:
            if len(context) >= length and tuple(context[-length:]) in self._continuations:
                return self._continuations[tuple(context[-length:])]
        return None

    def _remember(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            for length in _CONTEXT_LENGTHS:
                if len(self._context) >= length:
                    key = tuple(self._context[-length:])
                    last, _ = self._continuations.get(key, (None, None))
                    self._continuations[key] = token, last
            self._append(self._context, token)

    def _append(self, context: list[int], token: int) -> None:
        """Append a token to a context; numbers are reduced to their count of tokens."""
        counting = bool(context) and context[-1] < _NUMBER
        if self._is_number(token):
            if counting:
                context[-1] -= 1
            else:
                context.append(_NUMBER - 1)
        else:
            if counting:
                context[-1] = _NUMBER
            context.append(token)
        del context[: -_CONTEXT_LENGTHS[0]]
