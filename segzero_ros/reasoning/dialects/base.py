"""The description of one family of checkpoints, and the parsing helpers that the families share.

The prompts, the cleaning of the question, the image sizes and the rounding are those of the
published inference code, because the checkpoints were trained on them: `bboxs`, the missing blanks
between sentences and the two kinds of quotes are part of the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
import math
from typing import Any, Literal

from segzero_ros.reasoning.after_thinking import AfterThinking
from segzero_ros.reasoning.answer_entries import box_of, points_of
from segzero_ros.reasoning.answers import (
    AnswerParser,
    AnswerReader,
    Grammar,
    Reader,
    Scale,
    UNREADABLE,
)
from segzero_ros.reasoning.control_tokens import plain_question
from segzero_ros.reasoning.words import WordsReader
from segzero_ros.types import BadImage, Box, GroundedObject, Grounding, Task, UnsupportedTask

# Side of the square to which the published code of Seg-Zero and VisionReasoner resizes every
# image.
SQUARE = 840
# The vision towers of Qwen2-VL and Qwen2.5-VL take multiples of this: patches of 14 pixels, merged
# two by two.
GRID = 28
# The lower bound is that of the published image processors, the upper one that of the examples in
# Qwen's model cards; the processors' own would allow 16384 tokens per image.
_MIN_PIXELS = 4 * GRID * GRID
_MAX_PIXELS = 1280 * GRID * GRID
# `smart_resize` of transformers refuses longer images.
_MAX_ASPECT_RATIO = 200

QWEN_ARCHITECTURES = ('qwen2_5_vl', 'qwen2_vl')
# The sentence about the tags in the prompts of Seg-Zero and VisionReasoner.
TAG_INSTRUCTION = (
    'Output the thinking process in <think> </think> and final answer in <answer> </answer> tags.'
)


@dataclass(frozen=True)
class TaskFormat:
    """How a family does a task other than `segment`.

    Attributes:
        prompt_prefix: the prompt before the question.
        prompt_suffix: the prompt after the question.
        grammar: how answers are parsed; None for answers in words.
        schema: the answer's JSON schema, as in Dialect.
    """

    prompt_prefix: str = ''
    prompt_suffix: str = ''
    grammar: Grammar | None = None
    schema: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class Dialect:
    """The prompt, image size, coordinate frame and answer format of one family of checkpoints.

    Attributes:
        name: as in `ReasonerOptions.dialect`.
        prompt_prefix: the prompt before the question.
        prompt_suffix: the prompt after the question.
        grammar: how answers are parsed.
        architectures: the model types (`model_type` in config.json) that were trained on it.
        strip_chars: characters stripped from both ends of the question.
        lowercase: whether the question is lower-cased.
        square: side of the square that images are resized to, pixels; 0 keeps their aspect ratio.
        resampling: Pillow's filter, as in the published code.
        frame: coordinates are pixels of the resized image, or thousandths of its sides.
        max_new_tokens: most tokens of an answer in the published code; of thinking models, what
            an answer needs with its reasoning.
        schema: the answer's JSON schema, for guided decoding; None where answers are not tagged
            or no schema is known.
        recipe: the command that makes a checkpoint, where none is published.
        position_code_cell: side of the patches that carry a position code, pixels (see
            `patch_position_codes`); 0 for none.
        grid: side of the cells that become one image token each, pixels; images that keep their
            aspect ratio have multiples of it.
        min_pixels: least area of images that keep their aspect ratio, pixels.
        max_pixels: largest area of these, pixels.
        tasks: the tasks other than `segment`, each with its format; None for the same prompt and
            grammar as for `segment`.
        in_words: whether answers are words instead of objects.
        counts: whether the number that the model wrote beside the objects is read.
        template_options: what the chat template is given beside the messages.
    """

    name: str
    prompt_prefix: str
    prompt_suffix: str
    grammar: Grammar
    architectures: tuple[str, ...]
    strip_chars: str = ''
    lowercase: bool = False
    square: int = 0
    resampling: Literal['bilinear', 'bicubic'] = 'bilinear'
    frame: Literal['pixels', 'thousandths'] = 'pixels'
    max_new_tokens: int = 1024
    schema: Mapping[str, Any] | None = field(default=None, hash=False)
    recipe: str = ''
    position_code_cell: int = 0
    grid: int = GRID
    min_pixels: int = _MIN_PIXELS
    max_pixels: int = _MAX_PIXELS
    tasks: Mapping[Task, TaskFormat | None] = field(default_factory=dict, hash=False)
    in_words: bool = False
    counts: bool = field(default=False, compare=False)
    template_options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def for_task(self, task: Task) -> Dialect:
        """Return the dialect with a task's prompt, grammar and schema.

        Raises:
            UnsupportedTask: the family was not trained on it.
        """
        if task is Task.SEGMENT:
            return self
        if task not in self.tasks:
            known = ', '.join(each.name.lower() for each in (Task.SEGMENT, *self.tasks))
            raise UnsupportedTask(
                f'Models of the dialect {self.name} cannot do the task {task.name.lower()!r}; '
                f'they can do {known}.'
            )
        form = self.tasks[task]
        counts = task is Task.COUNT
        if form is None:
            return replace(self, counts=True) if counts else self
        return replace(
            self,
            counts=counts,
            prompt_prefix=form.prompt_prefix,
            prompt_suffix=form.prompt_suffix,
            grammar=form.grammar or self.grammar,
            schema=form.schema,
            in_words=form.grammar is None,
        )

    @property
    def max_image_tokens(self) -> int:
        """The most tokens that one image takes."""
        if self.square:
            return (self.square // (self.position_code_cell or self.grid)) ** 2
        # Enlarged images exceed the lower bound, since both sides are rounded up to multiples.
        return math.ceil(max(self.max_pixels, 2 * self.min_pixels) / self.grid**2)

    def bounded(self, min_pixels: int | None, max_pixels: int | None) -> Dialect:
        """Return the dialect with a checkpoint's own bounds on the area of images.

        Args:
            min_pixels: lower bound; None if the checkpoint has none.
            max_pixels: upper bound; None if it has none. The dialect's own holds where it is
                lower.
        """
        lower = max(self.min_pixels, min_pixels or 0)
        upper = min(self.max_pixels, max_pixels or self.max_pixels)
        return replace(self, min_pixels=lower, max_pixels=max(lower, upper))

    def question(self, query: str, tokens: Iterable[str] = ()) -> str:
        """Return the query as the published code cleans it, without control tokens.

        Args:
            query: the user's text.
            tokens: the loaded tokenizer's own special tokens, where they are known.
        """
        cleaned = (query.lower() if self.lowercase else query).strip(self.strip_chars or None)
        return plain_question(cleaned, tokens)

    def prompt(self, query: str, tokens: Iterable[str] = ()) -> str:
        """Return the text that follows the image in the prompt.

        Args:
            query: the user's text.
            tokens: see `question`.
        """
        return f'{self.prompt_prefix}{self.question(query, tokens)}{self.prompt_suffix}'

    def image_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) that an image is resized to for the model.

        Args:
            width: columns of the source image.
            height: rows of it.

        Raises:
            BadImage: the aspect ratio is beyond what the model takes.
        """
        if self.square:
            return self.square, self.square
        return native_size(width, height, self.min_pixels, self.max_pixels, self.grid)

    def scale(self, width: int, height: int) -> Scale:
        """Return source pixels per answered unit, (x, y).

        Args:
            width: columns of the source image.
            height: rows of it.
        """
        if self.frame == 'thousandths':
            return width / 1000, height / 1000
        seen_width, seen_height = self.image_size(width, height)
        return width / seen_width, height / seen_height

    def reader(
        self,
        width: int,
        height: int,
        parser: AnswerParser = 'repair',
        label: str = '',
        *,
        thinking: bool = False,
    ) -> Reader:
        """Return a reader for one answer.

        Args:
            width: columns of the source image.
            height: rows of it.
            parser: `repair`, or `strict`, which accepts only what the published code accepts.
            label: for objects to which the model gives no label.
            thinking: whether the prompt ends inside the reasoning, so that the answer has no
                `<think>`.
        """
        if self.in_words:
            return WordsReader(thinking)
        scale = self.scale(width, height)
        answer = AnswerReader(self.grammar, scale, parser, label, counts=self.counts)
        return AfterThinking(answer, self.grammar, thinking) if self.grammar.thinks else answer

    def parse(
        self, text: str, width: int, height: int, parser: AnswerParser = 'repair', label: str = ''
    ) -> Grounding:
        """Parse a whole answer.

        Args:
            text: the answer.
            width: columns of the source image.
            height: rows of it.
            parser: see `reader`.
            label: see `reader`.

        Raises:
            MalformedAnswer: it cannot be parsed; the error carries the text.
        """
        reader = self.reader(width, height, parser, label)
        reader.feed(text)
        return reader.finish()


def native_size(
    width: int,
    height: int,
    min_pixels: int = _MIN_PIXELS,
    max_pixels: int = _MAX_PIXELS,
    grid: int = GRID,
) -> tuple[int, int]:
    """Return the (width, height) to which Qwen's models resize an image.

    Both sides are the nearest multiples of the grid. An image outside the bounds is enlarged or
    shrunk; its aspect ratio is kept as well as the multiples allow (`smart_resize` in transformers
    for a grid of 28, in Qwen's own tools for one of 32).

    Args:
        width: columns of the source image.
        height: rows of it.
        min_pixels: lower bound of the area.
        max_pixels: upper bound of the area.
        grid: side of a cell, pixels.

    Raises:
        BadImage: one side is more than 200 times the other.
    """
    if max(width, height) > _MAX_ASPECT_RATIO * min(width, height):
        raise BadImage(
            f'An image of {width} by {height} is too long and thin for the model: one side '
            f'may be at most {_MAX_ASPECT_RATIO} times the other.'
        )
    # A side of less than half a cell is 0 in transformers, and the image is enlarged.
    least = 0 if grid == GRID else 1
    fitted = [max(round(side / grid), least) * grid for side in (width, height)]
    area = fitted[0] * fitted[1]
    if area > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        sides = (math.floor(side / shrink / grid) for side in (width, height))
        fitted = [max(1, side) * grid for side in sides]
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        fitted = [math.ceil(side * grow / grid) * grid for side in (width, height)]
    return fitted[0], fitted[1]


def number(value: Any) -> float:
    """Return a JSON number; raise TypeError for any other value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{value!r} is not a number')
    return value


def numbers(values: Any, count: int) -> list[float]:
    """Return a list of `count` finite numbers as it is.

    Raises:
        TypeError: it is no list, or holds something that is not a number.
        ValueError: it has another length, or a number is not finite.
    """
    if not isinstance(values, list):
        raise TypeError(f'{values!r} is not a list')
    if len(values) != count:
        raise ValueError(f'{len(values)} numbers instead of {count}')
    found = [number(value) for value in values]
    if not all(map(math.isfinite, found)):
        raise ValueError(f'{found} are not all finite')
    return found


def in_source(values: list[float], scale: Scale) -> tuple[float, ...]:
    """Return alternating x and y values in pixels of the source image, not rounded."""
    return tuple(float(value * factor) for value, factor in scaled(values, scale))


def lenient_object(
    item: Mapping[str, Any], to_source: Callable[[list[float]], Sequence[float]]
) -> GroundedObject:
    """Return the object of an entry that is not quite as published: box, points or both.

    Args:
        item: from `answer_entries.objects_in`.
        to_source: returns x, y, x, y, … in source pixels, rounded as published.

    Raises:
        KeyError: it has neither a box nor a point.
        TypeError, ValueError: its box is none; or, without a box, its points are none. Beside a
            box, points that cannot be read are left out.
    """
    box = box_of(item)
    try:
        points = points_of(item)
    except UNREADABLE:
        if box is None:
            raise
        points = []
    if box is None and not points:
        raise KeyError('bbox')
    label = item.get('label')
    corners: Box | None = None
    if box is not None:
        x1, y1, x2, y2 = to_source(box)
        corners = x1, y1, x2, y2
    pairs = (to_source(point) for point in points)
    return GroundedObject(
        corners, tuple((x, y) for x, y in pairs), label if isinstance(label, str) else ''
    )


def pair(point: object) -> list[Any]:
    """Return a list of two as it is, and an empty list for anything else."""
    return point if isinstance(point, list) and len(point) == 2 else []


def scaled(values: list[Any], scale: Scale) -> list[tuple[Any, float]]:
    """Return alternating x and y values, each with its factor."""
    return [(value, scale[index % 2]) for index, value in enumerate(values)]


def grounded_object(coordinates: list[float], label: object = '') -> GroundedObject:
    """Return an object from x1, y1, x2, y2 of its box and the x, y of each point.

    Args:
        coordinates: source pixels.
        label: used if it is a text.
    """
    x1, y1, x2, y2, *rest = coordinates
    points = tuple(zip(rest[::2], rest[1::2], strict=True))
    return GroundedObject((x1, y1, x2, y2), points, label if isinstance(label, str) else '')


def coordinates_schema(**lengths: int) -> dict[str, Any]:
    """Return the JSON schema of an object whose keys hold lists of so many integers each."""
    return {
        'type': 'object',
        'properties': {
            key: {
                'type': 'array',
                'items': {'type': 'integer'},
                'minItems': length,
                'maxItems': length,
            }
            for key, length in lengths.items()
        },
        'required': list(lengths),
        'additionalProperties': False,
    }
