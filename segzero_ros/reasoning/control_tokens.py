"""Neutralise control tokens in text from users or data.

Tokenizers recognise `<|im_end|>` and the like anywhere, so a question with one would end its own
turn, and one with an image placeholder would require a second image. A space after a token's first
character turns it into plain text.
"""

from __future__ import annotations

from collections.abc import Iterable
import re
from typing import Any

# The start of a token or tag of any model's template: `<|…|>`, `<image>`, `</s>`, `<__media__>`;
# not a "<" that compares two numbers.
_OPENING = re.compile(r'<(?=[^\s\d=<])')
# Mistral's and GLM's: `[INST]`, `[/INST]`, `[gMASK]`.
_BRACKETED = re.compile(r'\[(?=[^\]\s]*[A-Z][^\]\s]*\])')
# An answer's own tags stay.
_OPENING_OF_TOKENS = re.compile('<(?=[|\N{FULLWIDTH VERTICAL LINE}])')
_TAGS = ('<think>', '</think>', '<answer>', '</answer>')


def plain_question(text: str, tokens: Iterable[str] = ()) -> str:
    """Return a question without control tokens.

    Args:
        text: the question; returned unchanged if it has none.
        tokens: the loaded tokenizer's own special tokens, where they are known.
    """
    return _broken(_BRACKETED.sub('[ ', _OPENING.sub('< ', text)), tokens)


def plain_answer(text: str, tokens: Iterable[str] = ()) -> str:
    """Return a training answer without control tokens; its tags stay.

    Args:
        text: the answer.
        tokens: see `plain_question`.
    """
    others = (token for token in tokens if token not in _TAGS)
    return _broken(_OPENING_OF_TOKENS.sub('< ', text), others)


def control_tokens(processor: Any) -> tuple[str, ...]:
    """Return the special tokens of a processor of transformers, longest first."""
    tokenizer = processor.tokenizer
    added = tokenizer.added_tokens_decoder.values()
    found = {*tokenizer.all_special_tokens, *(one.content for one in added if one.special)}
    placeholders = (getattr(processor, f'{kind}_token', None) for kind in ('image', 'video'))
    found |= {one for one in placeholders if isinstance(one, str)}
    return tuple(sorted(found, key=lambda token: (-len(token), token)))


def _broken(text: str, tokens: Iterable[str]) -> str:
    for token in map(str.strip, tokens):
        first, rest = token[:1], token[1:]
        # Removing one may reveal an overlapping one.
        while token and token in text:
            text = text.replace(token, f'{first} {rest}' if rest else ' ')
    return text
