"""Turn tokens into text one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

_INCOMPLETE = '\N{REPLACEMENT CHARACTER}'


def numbers_of(tokenizer: Any) -> Callable[[int], bool]:
    """Return what tells whether a token is a number or belongs to one: digits, and no letters."""

    @cache
    def is_number(token: int) -> bool:
        text: str = tokenizer.decode([token])
        return any(map(str.isdecimal, text)) and not any(map(str.isalpha, text))

    return is_number


class Detokenizer:
    """The text of tokens as they come; characters that several tokens share wait for the last."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Tokens from the last certain boundary on, and how many of them have been told already.
        self._tokens: list[int] = []
        self._told = 0

    def add(self, token: int) -> str:
        """Return what the token adds to the text; empty while a character is incomplete."""
        self._tokens.append(token)
        before, after = self._decode(self._tokens[: self._told]), self._decode(self._tokens)
        if after.endswith(_INCOMPLETE) or len(after) <= len(before):
            return ''
        self._tokens = self._tokens[self._told :]
        self._told = len(self._tokens)
        return after[len(before) :]

    def rest(self) -> str:
        """Return what was held back."""
        before, after = self._decode(self._tokens[: self._told]), self._decode(self._tokens)
        self._told = len(self._tokens)
        return after[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
