"""Incremental detokenization."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

_INCOMPLETE = '\N{REPLACEMENT CHARACTER}'


def numbers_of(tokenizer: Any) -> Callable[[int], bool]:
    """Return a predicate: whether a token contains digits and no letters."""

    @cache
    def is_number(token: int) -> bool:
        text: str = tokenizer.decode([token])
        return any(map(str.isdecimal, text)) and not any(map(str.isalpha, text))

    return is_number


class Detokenizer:
    """Decodes tokens one by one; a character of several tokens waits for its last one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Tokens since the last certain boundary, and how many of them are decoded already.
        self._tokens: list[int] = []
        self._reported = 0

    def add(self, token: int) -> str:
        """Return the text that the token adds; empty while a character is incomplete."""
        self._tokens.append(token)
        before, after = self._decode(self._tokens[: self._reported]), self._decode(self._tokens)
        if after.endswith(_INCOMPLETE) or len(after) <= len(before):
            return ''
        self._tokens = self._tokens[self._reported :]
        self._reported = len(self._tokens)
        return after[len(before) :]

    def rest(self) -> str:
        """Return the text that was held back."""
        before, after = self._decode(self._tokens[: self._reported]), self._decode(self._tokens)
        self._reported = len(self._tokens)
        return after[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
