"""What a server may be asked to hold an answer to: thinking of any text, then JSON of a schema.

The whole answer is described, as a structural tag of the form `sequence` (xgrammar's, which vLLM
and SGLang take), so a model can neither leave the answer out nor write it freely. Imports
`dialects` and the standard library.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
import secrets
from typing import Any

from segzero_ros.reasoning.dialects import Dialect

# Answer a `response_format` with at most so many tokens; return the whole text.
Complete = Callable[[dict[str, Any], int], Awaitable[str]]

# Between the thinking and the answer; bounded, or a model may write blanks for ever.
_BLANKS = {'type': 'regex', 'pattern': '[ \\n]{0,2}'}
# What a server is tried with is one word of so many bytes in hexadecimal, at most two tokens each.
_PROBE_BYTES = 4
_PROBE_TOKENS = 48


def _numbers(count: int) -> dict[str, Any]:
    return {
        'type': 'array',
        'items': {'type': 'integer'},
        'minItems': count,
        'maxItems': count,
    }


def _record(**parts: int) -> dict[str, Any]:
    return {
        'type': 'object',
        'properties': {name: _numbers(count) for name, count in parts.items()},
        'required': list(parts),
        'additionalProperties': False,
    }


_SCHEMAS = {
    'vision_reasoner': {'type': 'array', 'items': _record(bbox_2d=4, point_2d=2)},
    'seg_zero': _record(bbox=4, points_1=2, points_2=2),
}


def answer_format(dialect: Dialect) -> dict[str, Any]:
    """Return the `response_format` that holds the dialect's answer to its JSON schema.

    Raises:
        ValueError: the dialect's answers stand in no tags, so that nothing marks their beginning.
    """
    if dialect.name not in _SCHEMAS:
        raise ValueError(
            f'Answers of the dialect {dialect.name} cannot be constrained; those of '
            f'{", ".join(_SCHEMAS)} can.'
        )
    return _sequence({'type': 'any_text'}, _SCHEMAS[dialect.name])


async def is_honoured(complete: Complete) -> bool:
    """Return whether a server holds a model to such a format instead of ignoring it.

    It is asked for a word that no model writes by itself. What the server calls itself tells
    nothing: Ray Serve hands such a request on to the vLLM behind it, under a name of its own.
    """
    word = secrets.token_hex(_PROBE_BYTES)
    form = _sequence({'type': 'const_string', 'value': word}, {'const': word})
    text = await complete(form, _PROBE_TOKENS)
    return text.startswith(f'<think>{word}')


def _sequence(thinking: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    answer = {'type': 'json_schema', 'json_schema': schema}
    elements = [_tag('think', thinking), _BLANKS, _tag('answer', answer)]
    return {'type': 'structural_tag', 'format': {'type': 'sequence', 'elements': elements}}


def _tag(name: str, content: dict[str, Any]) -> dict[str, Any]:
    return {'type': 'tag', 'begin': f'<{name}>', 'content': content, 'end': f'</{name}>'}
