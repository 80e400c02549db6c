"""From the question to the pixels: the published procedure, and the package when it is strict.

Both have the same small checkpoints. What these know by heart they write themselves; held-out
answers are put into the mouths of both, and everything after that runs as it always does: tokens,
text, boxes, points, masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')
pytest.importorskip('sam2')

from benchmarks.published import predictor_of, Published
from benchmarks.published_reading import Found
from benchmarks.random_checkpoints import ScriptedHead
from segzero_ros.loading import load_reasoner, load_segmenter, ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Pipeline
from segzero_ros.types import Answer, Frame, Mask, Query, Status

ARCHITECTURES = ('qwen2_5_vl', 'qwen2_vl')
# Width and height: landscape, portrait, a strip, smaller than a patch, larger than the square.
SIZES = ((640, 480), (217, 333), (500, 64), (20, 24), (1280, 960))


@dataclass
class BothWays:
    """The published procedure and the package's pipeline, on one set of weights."""

    published: Published
    pipeline: Pipeline

    def say(self, text: str) -> None:
        """Have both models write this text, whatever they are asked."""
        tokenizer = self.published.processor.tokenizer
        ids = tokenizer(text + '<|im_end|>')['input_ids']
        for model in self._models():
            if not isinstance(model.lm_head, ScriptedHead):
                ScriptedHead(model, ids)
            model.lm_head.say(ids)

    def speak_freely(self) -> None:
        """Have both models write what they think themselves."""
        for model in self._models():
            if isinstance(model.lm_head, ScriptedHead):
                model.lm_head.leave(model)

    def _models(self) -> list[Any]:
        reasoner: Any = self.pipeline.reasoner
        return [self.published.model, reasoner._model]

    def agree(self, image: np.ndarray, query: str) -> tuple[str, Answer]:
        """Ask both, see that they answer the same, and return the text and the answer."""
        text = self.published.reason(image, query)[0]
        self.restart()
        answer = self.pipeline.answer(Frame(image), Query(query))
        # The pipeline stops where the answer is closed; what follows is not read in either way.
        assert text.startswith(answer.raw_answer)
        assert answer.raw_answer == text or '</answer>' in answer.raw_answer
        try:
            found = self.published.read(image, text)
        except Exception:
            assert answer.status == Status.MALFORMED_ANSWER, answer.message
            assert answer.segments == ()
            return text, answer
        assert answer.status == (Status.OK if found else Status.NOT_FOUND), answer.message
        assert objects_of(answer) == found
        expected = self.published.segment(image, found)
        union = union_of(answer, image)
        differing = np.count_nonzero(union != expected)
        assert differing == 0, f'{differing} pixels of {union.shape} differ'
        return text, answer

    def restart(self) -> None:
        """Let a scripted model of the pipeline begin anew."""
        head = self._models()[1].lm_head
        if isinstance(head, ScriptedHead):
            head.position.zero_()


def objects_of(answer: Answer) -> list[Found]:
    """Return boxes and points as the published code has them."""
    return [
        (
            [one.box.x, one.box.y, one.box.x + one.box.width, one.box.y + one.box.height],
            [[int(x), int(y)] for x, y in one.points],
        )
        for one in answer.segments
    ]


def union_of(answer: Answer, image: np.ndarray) -> Mask:
    height, width = image.shape[:2]
    together = np.zeros((height, width), np.bool_)
    for segment in answer.segments:
        together |= segment.full_mask(height, width)
    return together


@pytest.fixture(scope='module', autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def both(
    tiny_qwen2_5_vl: Path, tiny_qwen2_vl: Path, tiny_sam2: Path
) -> Callable[[str, str], BothWays]:
    """Give the function that loads a checkpoint both ways, once for each dialect."""
    folders = {'qwen2_5_vl': tiny_qwen2_5_vl, 'qwen2_vl': tiny_qwen2_vl}
    # On some processors `auto` computes in bfloat16.
    exact = SegmenterOptions('sam2', str(tiny_sam2), device='cpu', dtype='float32')
    segmenter: Any = load_segmenter(exact)
    predictor = predictor_of(tiny_sam2, 'cpu')
    made: dict[tuple[str, str], BothWays] = {}

    def ways(architecture: str, dialect: str = 'vision_reasoner') -> BothWays:
        if (architecture, dialect) not in made:
            folder = folders[architecture]
            options = ReasonerOptions(
                'transformers', str(folder), dialect, answer_parser='strict', device='cpu'
            )
            reasoner: Any = load_reasoner(options)
            published = Published(folder, predictor, 'cpu', reasoner._model.dtype, dialect)
            made[architecture, dialect] = BothWays(published, Pipeline(reasoner, segmenter))
        return made[architecture, dialect]

    return ways


def picture(width: int, height: int) -> np.ndarray:
    """Blobs of colour with some noise: edges for the encoder to see."""
    random = np.random.default_rng(width * 10_000 + height)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / random.uniform(9, 80) + y / random.uniform(9, 80)) for _ in range(3)]
    smooth = 128 + 90 * np.stack(waves, axis=-1)
    return (smooth + random.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)


def held_out(seed: int, count: int) -> list[dict[str, list[float]]]:
    """Return boxes that nobody trained on, half of them with decimals, and a point in each."""
    random = np.random.default_rng(seed)
    items = []
    for _ in range(count):
        x1, y1 = random.uniform(0, 600, 2)
        x2, y2 = np.array([x1, y1]) + random.uniform(80, 240, 2)
        x, y = random.uniform([x1, y1], [x2, y2])
        decimals = int(random.integers(2))
        box, point = ([round(float(v), decimals) for v in vs] for vs in ((x1, y1, x2, y2), (x, y)))
        items.append({'bbox_2d': box, 'point_2d': point})
    return items


def listed(items: list[Any], thought: str = 'I looked at all of it.') -> str:
    return f'<think>{thought}</think><answer>{json.dumps(items)}</answer>'


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_what_a_checkpoint_knows_comes_out_pixel_for_pixel(
    name: str, both: Callable[..., BothWays], make_tiny_checkpoints: Any
) -> None:
    ways = both(name)
    ways.speak_freely()
    for pair in make_tiny_checkpoints.example_pairs():
        text, answer = ways.agree(pair.image, pair.query)
        assert text == pair.answer
        assert bool(answer.segments) == ('bbox_2d' in text)


@pytest.mark.parametrize('name', ARCHITECTURES)
@pytest.mark.parametrize('number', range(len(SIZES)))
def test_held_out_answers_give_the_published_boxes_points_and_pixels(
    name: str, number: int, both: Callable[..., BothWays]
) -> None:
    ways = both(name)
    count = (1, 3, 2, 1, 8)[number]
    ways.say(listed(held_out(number + len(name), count)))
    image = picture(*SIZES[number])
    _, answer = ways.agree(image, 'something that nobody ever asked')
    assert len(answer.segments) == count
    # The comparison means something: there are masks, and they are not all of the picture.
    assert 0 < union_of(answer, image).mean() < 1


def test_seg_zero_answers_give_the_published_box_points_and_pixels(
    both: Callable[..., BothWays],
) -> None:
    ways = both('qwen2_5_vl', 'seg_zero')
    answer = {'bbox': [101, 99.9, 431, 507], 'points_1': [203, 301], 'points_2': [333, 402]}
    for size in ((640, 480), (420, 630)):
        ways.say(f'<think>It stands out.</think><answer>{json.dumps(answer)}</answer>')
        _, given = ways.agree(picture(*size), 'the unusual thing')
        assert [len(segment.points) for segment in given.segments] == [2]


ONE = {'bbox_2d': [100, 200, 300, 400], 'point_2d': [200, 300]}
UNUSUAL = {
    'words around the tags': (f'Well. {listed([ONE])} That is all.', Status.OK),
    'blanks and lines in the list': (
        f'<answer>\n  {json.dumps([ONE], indent=1)}\n</answer>',
        Status.OK,
    ),
    'further keys': (listed([{**ONE, 'label': 'cup', 'sure': 0.9}]), Status.OK),
    'more numbers than there should be': (
        listed([{'bbox_2d': [100, 200, 300, 400, 5], 'point_2d': [200, 300, 7]}]),
        Status.OK,
    ),
    'two answers': (listed([ONE]) + listed([]), Status.OK),
    'nothing found': (listed([]), Status.NOT_FOUND),
    'no tags': (json.dumps([ONE]), Status.MALFORMED_ANSWER),
    'single quotes': (listed([ONE]).replace('"', "'"), Status.MALFORMED_ANSWER),
    'a code fence': (
        f'<answer>```json\n{json.dumps([ONE])}\n```</answer>',
        Status.MALFORMED_ANSWER,
    ),
    'a trailing comma': (
        listed([ONE]).replace('}]', '},]'),
        Status.MALFORMED_ANSWER,
    ),
    'cut off': (listed([ONE, ONE])[:-40], Status.MALFORMED_ANSWER),
    'one entry without a point': (
        listed([ONE, {'bbox_2d': [1, 2, 3, 4]}]),
        Status.MALFORMED_ANSWER,
    ),
    'three numbers': (listed([{**ONE, 'bbox_2d': [1, 2, 3]}]), Status.MALFORMED_ANSWER),
    'no number': (listed([ONE]).replace('100', 'NaN'), Status.MALFORMED_ANSWER),
    'no list': (f'<answer>{json.dumps(ONE)}</answer>', Status.MALFORMED_ANSWER),
    'prose': ('I see a cup on the left.', Status.MALFORMED_ANSWER),
}


@pytest.mark.parametrize('case', UNUSUAL)
def test_unusual_answers_are_read_or_refused_as_published(
    case: str, both: Callable[..., BothWays]
) -> None:
    text, status = UNUSUAL[case]
    ways = both('qwen2_vl')
    ways.say(text)
    _, answer = ways.agree(picture(320, 240), 'the cup')
    assert answer.status == status
