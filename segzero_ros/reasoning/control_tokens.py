"""Text that people or data give to a model stays text: it cannot hold a chat template's tokens.

Tokenizers read `<|im_end|>` and its kin wherever they stand, so a question with one in it would
end its own turn, and one with a picture's placeholder would ask for a picture that is not there. A
blank after a token's first character makes words of it.
"""

from __future__ import annotations

from collections.abc import Iterable
import re
from typing import Any

# What begins like a token or tag of any model's template: `<|…|>`, `<image>`, `</s>`,
# `<__media__>`. A "<" that compares two numbers does not.
_OPENING = re.compile(r'<(?=[^\s\d=<])')
# Mistral's and GLM's: `[INST]`, `[/INST]`, `[gMASK]`.
_BRACKETED = re.compile(r'\[(?=[^\]\s]*[A-Z][^\]\s]*\])')
# An answer has tags of its own, which stay.
_OPENING_OF_TOKENS = re.compile('<(?=[|\N{FULLWIDTH VERTICAL LINE}])')
_TAGS = ('<think>', '</think>', '<answer>', '</answer>')


def plain_question(text: str, tokens: Iterable[str] = ()) -> str:
    """Return a question without anything that a model could take for a control token.

    Args:
        text: the question; the same text comes back where there is nothing of the kind.
        tokens: the loaded tokenizer's own special tokens, where they are known.
    """
    return _broken(_BRACKETED.sub('[ ', _OPENING.sub('< ', text)), tokens)


def plain_answer(text: str, tokens: Iterable[str] = ()) -> str:
    """Return an answer to learn by heart without control tokens; its tags stay."""
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
        # Overlapping ones come to light one after the other.
        while token and token in text:
            text = text.replace(token, f'{first} {rest}' if rest else ' ')
    return text
