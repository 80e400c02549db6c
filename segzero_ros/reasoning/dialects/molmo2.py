"""Molmo 2 behind a server: points in thousandths, each with the number of its object, no boxes."""

from __future__ import annotations

from collections.abc import Mapping
import re
from typing import Any

from segzero_ros.reasoning.answers import Grammar, Scale
from segzero_ros.reasoning.dialects.base import Dialect, in_source, TaskFormat
from segzero_ros.types import GroundedObject, Point, Task

_BEGIN = '<points'
# As the published reader; the text between the tags is the label.
_POINTS = re.compile(r'<points\b[^<>]*? coords="([0-9\t:;, .]+)"[^<>]*>([^<>]*)')
_IMAGES_APART = re.compile(r'[\t:;,]')
_THOUSANDTHS = re.compile(r'[0-9]{3,4}')
_NONE = 'there are none'


def _read(text: str, scale: Scale) -> list[GroundedObject]:
    """Parse `<points coords="1 1 990 800 2 …">label</points>`: the image, then number, x and y.

    A list that is cut off is refused; the published reader passes over it.

    Raises:
        ValueError: there are no points, and the text does not say that there are none.
    """
    found = _POINTS.findall(text)
    if not found:
        if text.strip(' \n\t.!"\'').lower() == _NONE:
            return []
        raise ValueError('there are no <points coords="…">')
    if text.count(_BEGIN) > len(found):
        raise ValueError('some of its <points coords="…"> are cut off or cannot be read')
    return [read for coordinates, label in found for read in _objects(coordinates, label, scale)]


def _objects(coordinates: str, label: str, scale: Scale) -> list[GroundedObject]:
    """Return one object for each number, with all its points."""
    points: dict[str, list[Point]] = {}
    for image in filter(str.strip, _IMAGES_APART.split(coordinates)):
        _, *triples = image.split()
        if (
            not triples
            or len(triples) % 3
            or not all(_THOUSANDTHS.fullmatch(value) for value in (*triples[1::3], *triples[2::3]))
        ):
            raise ValueError(f'{image.strip()[:80]!r} is not an image and numbered points')
        for number, across, down in zip(*(triples[start::3] for start in range(3)), strict=True):
            x, y = in_source([int(across), int(down)], scale)
            points.setdefault(number, []).append((x, y))
    if not points:
        raise ValueError('there is no point in <points coords="…">')
    return [GroundedObject(None, tuple(each), label.strip()) for each in points.values()]


def _no_object(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    raise KeyError(_BEGIN)


# Its own processor cuts images into overlapping crops, so it is asked through a server only.
MOLMO2 = Dialect(
    name='molmo2',
    prompt_prefix='Point to ',
    prompt_suffix="\nPlease say 'There are none.' if it is not in the image.",
    grammar=Grammar(_read, _no_object, tagged=False, thinks=True, begins=(_BEGIN,)),
    architectures=(),
    resampling='bicubic',
    frame='thousandths',
    tasks={Task.COUNT: None, Task.ANSWER: TaskFormat(), Task.POINT: None},
)
