"""What a server may be asked to hold an answer to, once the model has begun to write it.

The reasoning before `<answer>` stays free. Imports `dialects` only.
"""

from __future__ import annotations

from typing import Any

from segzero_ros.reasoning.dialects import Dialect

# The servers that are known to take such a request, by what they write into `owned_by`.
SERVERS = ('vllm', 'sglang')


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
    structure = {'begin': '<answer>', 'schema': _SCHEMAS[dialect.name], 'end': '</answer>'}
    return {'type': 'structural_tag', 'structures': [structure], 'triggers': ['<answer>']}
