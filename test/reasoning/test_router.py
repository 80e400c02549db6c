"""The rules that choose a task by the sentence."""

import pytest

from segzero_ros.reasoning.router import route_by_rules
from segzero_ros.types import Task

SENTENCES = {
    Task.COUNT: (
        'How many mugs are there?',
        'how many red tins are on the table',
        'Count the apples.',
        'please count all screws',
        'Can you tell me how many eggs are left?',
        'the number of chairs',
    ),
    Task.ANSWER: (
        'Is there a red tin?',
        'are there any mugs on the shelf?',
        'Can you see a cup?',
        'What colour is the box?',
        'what is on the table?',
        "What's in the image?",
        'Why is the floor wet?',
        'Describe the scene.',
        'Does the bottle have a cap?',
        'Please tell me what is written on the sign.',
        'who is sitting on the chair?',
        'Is the drawer open?',
        'tell me whether there is a cup',
    ),
    Task.POINT: (
        'Point to the handle.',
        'Where do I put the apple?',
        'where should I push the door?',
        'Where can the plate be placed?',
        'where could you grasp this mug',
        'where is there room for the plate?',
        'a free spot to put the bowl',
        'where to place the box',
    ),
    Task.DETECT: ('Detect all people.', 'bounding boxes of the cups', 'draw boxes around cars'),
    Task.SEGMENT: (
        'the red cup',
        'something to drink from',
        'where is the red cup?',
        'Where are my keys?',
        'What can I write with?',
        'which object would I use to cut paper?',
        'Find the biggest apple.',
        'can you find the red cup?',
        'could you please segment the mug on the left',
        'the cup that is closest to the count of Monte Cristo book',
        'Bring me something for my thirst',
        'both eggs',
        'all of the boxes',
        '',
        'é — ?',
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ('sentence', 'task'),
    [(sentence, task) for task, sentences in SENTENCES.items() for sentence in sentences],
)
def test_sentences_get_the_task_they_ask_for(sentence: str, task: Task) -> None:
    assert route_by_rules(sentence) is task


def test_case_quotes_and_blanks_do_not_matter() -> None:
    assert route_by_rules('  “HOW   MANY cups?” ') is Task.COUNT
    assert route_by_rules('What\N{RIGHT SINGLE QUOTATION MARK}s this?') is Task.ANSWER
