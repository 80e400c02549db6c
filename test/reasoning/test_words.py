"""Answers in words, with and without reasoning before them."""

import pytest

from segzero_ros.reasoning.answers import StreamReporter
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.reasoning.words import WordsReader
from segzero_ros.types import MalformedAnswer, Task, UnsupportedTask


@pytest.mark.parametrize(
    ('text', 'reasoning', 'answer'),
    [
        ('It is red.', '', 'It is red.'),
        (' Four.\n', '', 'Four.'),
        ('<think>I see it.</think>It is red.', 'I see it.', 'It is red.'),
        ('<think>a</think><answer>No.</answer>', 'a', 'No.'),
        # The template of a thinking model writes the opening tag into the prompt.
        ('I see it.\n</think>\n\nIt is red.', 'I see it.', 'It is red.'),
        ('<think>a</think> b </think> 3 < 4', 'a  b', '3 < 4'),
        ('a < b <thin', '', 'a < b <thin'),
    ],
)
@pytest.mark.parametrize('size', [1, 3, 1000])
def test_what_follows_the_reasoning_is_the_answer(
    text: str, reasoning: str, answer: str, size: int
) -> None:
    streamed: list[str] = []
    reporter = StreamReporter(WordsReader(), streamed.append)
    for start in range(0, len(text), size):
        reporter.feed(text[start : start + size])
    assert not reporter.complete
    grounding = reporter.finish(7)
    assert (grounding.reasoning.split(), grounding.answer) == (reasoning.split(), answer)
    assert (grounding.raw_answer, grounding.objects) == (text, ())
    assert grounding.generated_tokens == 7
    assert ''.join(streamed).split() == [*reasoning.split(), *answer.split()]


@pytest.mark.parametrize('text', ['', '  \n', '<think>', '<think>I look', 'a</think>  '])
def test_no_answer_is_malformed_and_keeps_its_text(text: str) -> None:
    reader = WordsReader()
    reader.feed(text)
    with pytest.raises(MalformedAnswer) as caught:
        reader.finish()
    assert caught.value.raw_answer == text


def test_the_published_model_is_asked_in_bare_words() -> None:
    dialect = dialect_named('vision_reasoner').for_task(Task.ANSWER)
    assert dialect.prompt('What colour is the "Cup"?') == 'what colour is the "cup'
    assert dialect.schema is None
    assert dialect.parse('It is red.', 640, 480).answer == 'It is red.'


def test_detection_and_counting_have_the_prompt_of_segmentation() -> None:
    dialect = dialect_named('vision_reasoner')
    for task in (Task.SEGMENT, Task.DETECT, Task.COUNT, Task.POINT):
        assert dialect.for_task(task) == dialect


def test_a_task_that_a_family_was_not_trained_on_is_refused_with_those_that_it_was() -> None:
    with pytest.raises(
        UnsupportedTask, match=r"task 'count'; they can do segment, detect, point."
    ):
        dialect_named('seg_zero').for_task(Task.COUNT)
