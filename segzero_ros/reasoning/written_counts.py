"""Read the number that a model wrote beside the objects of its answer (task `count`)."""

from __future__ import annotations

import re

_END_OF_THINKING = '</think>'
_NUMBERS = (
    *('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten'),
    *('eleven', 'twelve', 'thirteen', 'fourteen', 'fifteen', 'sixteen', 'seventeen'),
    *('eighteen', 'nineteen', 'twenty'),
)
_NUMBER = rf'(\d{{1,6}}(?![\d.,:]*\d)|{"|".join(_NUMBERS)})\b'
_KEY = re.compile(r'["\'](?:count|number|total|quantity)["\']\s*:\s*["\']?(\d{1,6})(?![\d.])')
# A number counts something only in such phrases: not in "at 10 o'clock", "the one on the left".
_PHRASES = tuple(
    re.compile(pattern)
    for pattern in (
        r'\b(?:there (?:is|are)|(?:i|we) (?:can )?(?:see|count|counted|find|found)|found|counted|'
        r'total of|(?:count|total|number|answer)(?: of (?:\w+ ){0,3}\w+)?(?: is|:)?)\s+'
        rf'(?:(?:exactly|only|just)\s+)?{_NUMBER}',
        rf'^\W*{_NUMBER}(?:\s+\w+){{0,4}}\W*$',
        rf'\b{_NUMBER}(?:\s+\w+){{0,3}}\s+in total\b',
    )
)


def written_count(text: str) -> int | None:
    """Return the number of things that an answer states; None if it states none, or several.

    Args:
        text: the whole answer. Reasoning before `</think>` does not count: it weighs numbers.
    """
    answer = text.rpartition(_END_OF_THINKING)[2]
    if '<think>' in answer:
        return None
    found = {int(number) for number in _KEY.findall(answer)}
    if not found:
        words = _words_of(answer)
        found = {_value(number) for phrase in _PHRASES for number in phrase.findall(words)}
    return found.pop() if len(found) == 1 else None


def _words_of(answer: str) -> str:
    """Return what stands around the JSON, in lower case, on one line."""
    starts = [at for at in map(answer.find, '[{') if at >= 0]
    start = min(starts, default=len(answer))
    end = max(answer.rfind(']'), answer.rfind('}')) + 1
    # JSON that is cut off has no words behind it.
    behind = answer[end:] if end > start else ''
    words = f'{answer[:start]} {behind}'
    for mark in ('```json', '```', '<answer>', '</answer>', '*'):
        words = words.replace(mark, ' ')
    return ' '.join(words.lower().split())[:2000]


def _value(number: str) -> int:
    return int(number) if number.isdigit() else _NUMBERS.index(number)
