"""Guided decoding by a server: reasoning of any text, then JSON of the dialect's schema.

The whole answer is one structural tag of the form `sequence` (xgrammar's, which vLLM and SGLang
accept), so the model can neither omit the answer nor write it in another format.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
import secrets
from typing import Any

from segzero_ros.reasoning.dialects import Dialect, DIALECTS

# Complete a prompt under a `response_format` with at most so many tokens; return the whole text.
Complete = Callable[[dict[str, Any], int], Awaitable[str]]

# Between reasoning and answer; bounded, or a model may write whitespace for ever.
_WHITESPACE = {'type': 'regex', 'pattern': '[ \\n]{0,2}'}
# The probe is one word of so many bytes in hexadecimal, at most two tokens each.
_PROBE_BYTES = 4
_PROBE_TOKENS = 48


def answer_format(dialect: Dialect) -> dict[str, Any]:
    """Return the `response_format` that holds the dialect's answer to its JSON schema.

    Raises:
        ValueError: the dialect has no schema.
    """
    if dialect.schema is None:
        constrained = ', '.join(name for name, each in DIALECTS.items() if each.schema)
        raise ValueError(
            f'Answers of the dialect {dialect.name} cannot be constrained; those of '
            f'{constrained} can.'
        )
    return _sequence({'type': 'any_text'}, dialect.schema)


async def is_honoured(complete: Complete) -> bool:
    """Return whether a server applies such a format instead of ignoring it.

    The probe demands a random word, which no model writes by itself. The server's name is no
    evidence: Ray Serve passes such a request to the vLLM behind it, under a name of its own.
    """
    word = secrets.token_hex(_PROBE_BYTES)
    form = _sequence({'type': 'const_string', 'value': word}, {'const': word})
    text = await complete(form, _PROBE_TOKENS)
    return text.startswith(f'<think>{word}')


def _sequence(thinking: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    answer = {'type': 'json_schema', 'json_schema': schema}
    elements = [_tag('think', thinking), _WHITESPACE, _tag('answer', answer)]
    return {'type': 'structural_tag', 'format': {'type': 'sequence', 'elements': elements}}


def _tag(name: str, content: dict[str, Any]) -> dict[str, Any]:
    return {'type': 'tag', 'begin': f'<{name}>', 'content': content, 'end': f'</{name}>'}
