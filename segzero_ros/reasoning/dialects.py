"""How each family of checkpoints is spoken to: prompt, image size, coordinates, answer grammar.

The prompts, the cleaning of the question, the image sizes and the rounding are those of the
published inference code, because the checkpoints were trained on them: `bboxs`, the missing blanks
between sentences and the two kinds of quotes belong to the prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
import json
import math
import re
from typing import Any, Literal

from segzero_ros.reasoning.answers import AnswerParser, AnswerReader, Grammar, Scale, UNREADABLE
from segzero_ros.reasoning.control_tokens import plain_question
from segzero_ros.types import BadImage, GroundedObject, Grounding

# A side of the square that Seg-Zero and VisionReasoner squash every image to.
SQUARE = 840
# Qwen's vision towers take multiples of this: patches of 14 pixels, merged two by two.
GRID = 28
_FEWEST_PIXELS = 4 * GRID * GRID
# The published processors' own bound would allow 16384 tokens for one image.
_MOST_PIXELS = 1280 * GRID * GRID
_LONGEST_ASPECT = 200

_THINK = re.compile(r'<think>([^<]+)</think>')


@dataclass(frozen=True)
class Dialect:
    """How one family of checkpoints is spoken to.

    Attributes:
        name: as in `ReasonerOptions.dialect`.
        before: the prompt up to the question.
        after: the prompt from the question on.
        grammar: how answers are written.
        architectures: the model types that were trained on it.
        stripped: characters taken off both ends of the question.
        lower: the question is put into lower case.
        square: a side of the square that images are squashed to; 0 keeps their shape.
        resampling: how the published code resizes images.
        frame: coordinates are pixels of the image as the model sees it, or thousandths of its
            sides.
        max_new_tokens: most tokens an answer has in the published code.
        recipe: the command that makes a checkpoint, where nobody publishes any.
        mark_cell: side of the patches whose places are marked in the picture (see `marks`); 0 for
            an unmarked picture.
        fewest_pixels: bounds on the area of images that keep their shape, in pixels.
        most_pixels: see `fewest_pixels`.
    """

    name: str
    before: str
    after: str
    grammar: Grammar
    architectures: tuple[str, ...]
    stripped: str = ''
    lower: bool = False
    square: int = 0
    resampling: Literal['bilinear', 'bicubic'] = 'bilinear'
    frame: Literal['pixels', 'thousandths'] = 'pixels'
    max_new_tokens: int = 1024
    recipe: str = ''
    mark_cell: int = 0
    fewest_pixels: int = _FEWEST_PIXELS
    most_pixels: int = _MOST_PIXELS

    @property
    def largest_image(self) -> int:
        """The most tokens that an image takes."""
        if self.square:
            return (self.square // (self.mark_cell or GRID)) ** 2
        # The largest images are those that are enlarged until both sides are multiples.
        return math.ceil(max(self.most_pixels, 2 * self.fewest_pixels) / GRID**2)

    def bounded(self, fewest: int | None, most: int | None) -> Dialect:
        """Return the same dialect within a checkpoint's own bounds on the area of images.

        Args:
            fewest: in pixels; None for no bound of the checkpoint's own.
            most: in pixels; None for no bound. The dialect's own holds where it is lower.
        """
        least = max(self.fewest_pixels, fewest or 0)
        largest = min(self.most_pixels, most or self.most_pixels)
        return replace(self, fewest_pixels=least, most_pixels=max(least, largest))

    def question(self, query: str, tokens: Iterable[str] = ()) -> str:
        """Return the query as the published code cleans it, and without control tokens.

        Args:
            query: as a person wrote it.
            tokens: the loaded tokenizer's own special tokens, where they are known.
        """
        cleaned = (query.lower() if self.lower else query).strip(self.stripped or None)
        return plain_question(cleaned, tokens)

    def prompt(self, query: str, tokens: Iterable[str] = ()) -> str:
        """Return the text that goes to the model after the image; see `question`."""
        return f'{self.before}{self.question(query, tokens)}{self.after}'

    def image_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) that an image is resized to before the model sees it.

        Raises:
            BadImage: the image is too long and thin for the model.
        """
        if self.square:
            return self.square, self.square
        return native_size(width, height, self.fewest_pixels, self.most_pixels)

    def scale(self, width: int, height: int) -> Scale:
        """Return source pixels per written unit, (x, y), for a source image of this size."""
        if self.frame == 'thousandths':
            return width / 1000, height / 1000
        seen_width, seen_height = self.image_size(width, height)
        return width / seen_width, height / seen_height

    def reader(
        self, width: int, height: int, parser: AnswerParser = 'repair', label: str = ''
    ) -> AnswerReader:
        """Return a reader of one answer about a source image of this size.

        Args:
            width: columns of the source image.
            height: rows of the source image.
            parser: `repair` or `strict`, which reads only what the published code does.
            label: the objects' label where the model gives none.
        """
        return AnswerReader(self.grammar, self.scale(width, height), parser, label)

    def parse(
        self, text: str, width: int, height: int, parser: AnswerParser = 'repair', label: str = ''
    ) -> Grounding:
        """Read a whole answer about a source image of this size.

        Raises:
            MalformedAnswer: it cannot be read; the error carries the text.
        """
        reader = self.reader(width, height, parser, label)
        reader.feed(text)
        return reader.finish()


def native_size(
    width: int, height: int, fewest: int = _FEWEST_PIXELS, most: int = _MOST_PIXELS
) -> tuple[int, int]:
    """Return the (width, height) at which Qwen2-VL and Qwen2.5-VL see an image.

    The nearest multiples of 28; images of fewer or more pixels than the bounds are enlarged or
    shrunk, keeping their shape as well as the multiples allow.
    """
    if max(width, height) > _LONGEST_ASPECT * min(width, height):
        raise BadImage(
            f'An image of {width} by {height} is too long and thin for the model: one side '
            f'may be at most {_LONGEST_ASPECT} times the other.'
        )
    fitted = [round(side / GRID) * GRID for side in (width, height)]
    area = fitted[0] * fitted[1]
    if area > most:
        shrink = math.sqrt(width * height / most)
        sides = (math.floor(side / shrink / GRID) for side in (width, height))
        fitted = [max(1, side) * GRID for side in sides]
    elif area < fewest:
        grow = math.sqrt(fewest / (width * height))
        fitted = [math.ceil(side * grow / GRID) * GRID for side in (width, height)]
    return fitted[0], fitted[1]


def dialect_named(name: str) -> Dialect:
    """Return the dialect of this name; raise ValueError naming all of them."""
    try:
        return DIALECTS[name]
    except KeyError:
        raise ValueError(
            f'There is no dialect {name!r}; there are {", ".join(DIALECTS)}.'
        ) from None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{value!r} is not a number')
    return value


def _numbers(item: Mapping[str, Any], part: str, count: int) -> list[float]:
    """Return the first list of so many numbers whose key holds `part`."""
    for key, value in item.items():
        if part in key.lower() and isinstance(value, list) and len(value) == count:
            return [_number(number) for number in value]
    raise KeyError(part)


def _scaled(values: list[Any], scale: Scale) -> list[tuple[Any, float]]:
    return [(value, scale[index % 2]) for index, value in enumerate(values)]


def _object(coordinates: list[float], label: object = '') -> GroundedObject:
    x1, y1, x2, y2, *rest = coordinates
    points = tuple(zip(rest[::2], rest[1::2], strict=True))
    return GroundedObject((x1, y1, x2, y2), points, label if isinstance(label, str) else '')


# VisionReasoner: a list of boxes, each with one point; halves are rounded up.


def _half_up(values: list[Any], scale: Scale) -> list[float]:
    return [float(int(value * factor + 0.5)) for value, factor in _scaled(values, scale)]


def _list_item(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Read one entry as the published code does: it looks at the first four and two numbers."""
    box, point = item['bbox_2d'], item['point_2d']
    return _object(_half_up([box[0], box[1], box[2], box[3], point[0], point[1]], scale))


def _list_item_kindly(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Read one entry; the box must be there, the point may be missing."""
    try:
        return _list_item(item, scale)
    except UNREADABLE:
        box = _half_up(_numbers(item, 'bbox', 4), scale)
    try:
        return _object(box + _half_up(_numbers(item, 'point', 2), scale), item.get('label'))
    except UNREADABLE:
        return _object(box, item.get('label'))


def _read_list(text: str, scale: Scale) -> list[GroundedObject]:
    start = text.find('<answer>')
    end = text.find('</answer>', start + len('<answer>'))
    if start < 0 or end < 0:
        raise ValueError('there is no <answer> … </answer>')
    return [_list_item(item, scale) for item in json.loads(text[start + 8 : end].strip())]


# Seg-Zero: one box with two points; decimals are cut off, then halves go to the even number.


def _to_even(values: list[Any], scale: Scale) -> list[float]:
    return [float(round(int(value) * factor)) for value, factor in _scaled(values, scale)]


def _single(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Read the object as the published code does: keys count by what their names hold."""
    box = next((item[key] for key in item if 'bbox' in key.lower()), ())
    points = [item[key] for key in item if 'points' in key.lower()][:2]
    if len(box) != 4:
        raise ValueError('there is no box of four numbers')
    if len(points) != 2:
        raise ValueError('there are no two points')
    (x1, y1), (x2, y2) = ((point[0], point[1]) for point in points)
    return _object(_to_even([*box, x1, y1, x2, y2], scale))


def _single_kindly(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    """Read the object; the box must be there, points may be missing."""
    try:
        return _single(item, scale)
    except UNREADABLE:
        box = _to_even(_numbers(item, 'bbox', 4), scale)
    points = [item[key] for key in item if 'point' in key.lower()][:2]
    flat = [_number(value) for point in points for value in _pair(point)]
    return _object(box + _to_even(flat, scale), item.get('label'))


def _pair(point: object) -> list[Any]:
    return point if isinstance(point, list) and len(point) == 2 else []


def _read_single(text: str, scale: Scale) -> list[GroundedObject]:
    found = _single(json.loads(_first_braces(text)), scale)
    if _THINK.search(text) is None:
        raise ValueError('there is no reasoning in <think> </think>')
    return [found]


def _first_braces(text: str) -> str:
    """Return the first `{…}` with something in it that is not a closing brace."""
    start = text.find('{')
    while start >= 0:
        end = text.find('}', start + 1)
        if end < 0:
            break
        if end > start + 1:
            return text[start : end + 1]
        start = text.find('{', end)
    raise ValueError('there is no {…}')


# Plain Qwen: a fenced list of labelled boxes; decimals are cut off.


def _cut_off(values: list[Any], scale: Scale) -> list[float]:
    return [float(int(value * factor)) for value, factor in _scaled(values, scale)]


def _labelled_box(item: Mapping[str, Any], scale: Scale) -> GroundedObject:
    box = item['bbox'] if 'bbox' in item else item['bbox_2d']
    point = item.get('point', item.get('point_2d', []))
    return _object(_cut_off([*_exactly(box, 4), *_pair(point)], scale), item.get('label'))


def _exactly(values: Any, count: int) -> list[Any]:
    if len(values) != count:
        raise ValueError(f'a box of {len(values)} numbers')
    return [_number(value) for value in values]


def _read_fenced(text: str, scale: Scale) -> list[GroundedObject]:
    """Read the list as the published baseline does: a json fence, else up to the first `]`."""
    start = text.find('```json')
    end = text.find('```', start + 7)
    if start >= 0 and end >= 0:
        items = json.loads(text[start + 7 : end].strip())
    else:
        start = text.find('[')
        end = text.find(']', start)
        if start < 0 or end < 0:
            raise ValueError('there is no list')
        items = json.loads(text[start : end + 1])
    if not isinstance(items, list):
        raise TypeError('the answer is not a list')
    found = [_labelled_box(item, scale) for item in items if 'bbox' in item or 'bbox_2d' in item]
    if items and not found:
        raise ValueError('there is no box in the list')
    return found


_FORMAT_OF_TAGS = (
    'Output the thinking process in <think> </think> and final answer in <answer> </answer> tags.'
)
_QWEN_JSON = Grammar(_read_fenced, _labelled_box, tagged=False)
_QWEN = ('qwen2_5_vl', 'qwen2_vl')

_ALL = (
    # VisionReasoner-7B and kin; the question is cleaned as in its evaluation.
    Dialect(
        name='vision_reasoner',
        before='Please find "',
        after='" with bboxs and points.'
        'Compare the difference between object(s) and find the most closely matched object(s).'
        + _FORMAT_OF_TAGS
        + 'Output the bbox(es) and point(s) inside the interested object(s) in JSON format.'
        'i.e., <think> thinking process here </think>'
        '<answer>[{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}, '
        '{"bbox_2d": [225,296,706,786], "point_2d": [302,410]}]</answer>',
        grammar=Grammar(_read_list, _list_item_kindly),
        architectures=_QWEN,
        stripped='."?!',
        lower=True,
        square=SQUARE,
    ),
    # Seg-Zero-7B, -Best-on-ReasonSegTest and 3B.
    Dialect(
        name='seg_zero',
        before="Please find '",
        after="' with bbox and points."
        'Compare the difference between objects and find the most closely matched one.'
        + _FORMAT_OF_TAGS
        + 'Output the one bbox and points of two largest inscribed circles inside the interested '
        'object in JSON format.'
        'i.e., <think> thinking process here </think>'
        "<answer>{'bbox': [10,100,200,210], 'points_1': [30,110], 'points_2': [35,180]}</answer>",
        grammar=Grammar(_read_single, _single_kindly, single=True),
        architectures=_QWEN,
        stripped='.',
        lower=True,
        square=SQUARE,
    ),
    # The published baseline; it takes the boxes for source pixels, here they are scaled to them.
    Dialect(
        name='qwen2_5_vl',
        before='Locate "',
        after='", report the bboxes coordinates in JSON format.',
        grammar=_QWEN_JSON,
        architectures=('qwen2_5_vl',),
        resampling='bicubic',
    ),
    # Qwen2-VL writes thousandths of the image's sides.
    Dialect(
        name='qwen2_vl',
        before='Please identify "',
        after='" in the image. \n'
        'Return a JSON array where each object is represented as:\n'
        '{"bbox": [x1, y1, x2, y2], "label": label}\n\n'
        'Your response should be formatted as:\n'
        '```json\n[\n    {"bbox": [x1, y1, x2, y2], "label": label},\n    ...\n]\n```',
        grammar=_QWEN_JSON,
        architectures=('qwen2_vl',),
        resampling='bicubic',
        frame='thousandths',
    ),
    # The small reasoner that comes with the package: no instruction, for it knows but one task.
    Dialect(
        name='mini',
        before='',
        after='',
        grammar=Grammar(_read_list, _list_item_kindly),
        architectures=('qwen2_5_vl',),
        stripped=' ."?!',
        lower=True,
        square=224,
        max_new_tokens=256,
        recipe='python -m segzero_ros.training.mini out/mini',
        mark_cell=16,
    ),
)
DIALECTS = {dialect.name: dialect for dialect in _ALL}
