"""Questions are told apart, and their phrases are what a reasoner should find."""

from dataclasses import replace
import re
import time

from hypothesis import given, settings, strategies
import pytest

from segzero_ros.pipeline import Listeners, Pipeline
from segzero_ros.reasoning.attribute_reasoner import AttributeReasoner
from segzero_ros.reasoning.attributes.language import parse_query
from segzero_ros.reasoning.attributes.questions import (
    answer_sentence,
    parse_question,
    position_in_image,
    Question,
)
from segzero_ros.segmentation.grabcut_segmenter import GrabCutSegmenter
from segzero_ros.simulation import make_scene
from segzero_ros.types import Query, Status, Task

QUESTIONS = {
    'how many mugs are there?': ('count', 'mugs'),
    'How many red boxes are there on the table?': ('count', 'red boxes'),
    'how many of the boxes are red?': ('count', 'boxes that are red'),
    'how many things can you see left of the blue box': ('count', 'things left of the blue box'),
    'how many bottles do you see in front of the book': ('count', 'bottles in front of the book'),
    'Could you please tell me how many cans there are?': ('count', 'cans'),
    'count the balls, please': ('count', 'balls'),
    'What is the number of plates in this picture?': ('count', 'plates'),
    'how many things can I drink from?': ('count', 'things can i drink from'),
    'how many tins are on the left': ('count', 'tins that are on the left'),
    'is there a red tin?': ('exists', 'a red tin'),
    'Are there any mugs on the table?': ('exists', 'mugs'),
    'can you see a green cone?': ('exists', 'a green cone'),
    'Do you see any of the balls?': ('exists', 'balls'),
    'tell me whether there is a bottle': ('exists', 'a bottle'),
    'I would like to know if there are two books': ('exists', 'two books'),
    'does a yellow mug exist?': ('exists', 'a yellow mug'),
    'is a can visible': ('exists', 'a can'),
    'is the ball red?': ('exists', 'the ball red'),
    'is the red box left of the mug?': ('exists', 'the red box left of the mug'),
    'is there anything to write with?': ('exists', 'anything to write with'),
    'does the table have a bowl on it?': ('exists', 'a bowl on it'),
    'where is the blue mug?': ('where', 'the blue mug'),
    "where's my cup": ('where', 'my cup'),
    'where are the two balls': ('where', 'the two balls'),
    'where can I find the plate?': ('where', 'the plate'),
    'Tell me the position of the red box.': ('where', 'the red box'),
    'the green bottle is where?': ('where', 'the green bottle'),
    'where do I put the apple?': ('place', 'where do I put the apple?'),
    'Where should the cup go': ('place', 'Where should the cup go'),
    'where does the breakfast cereal go?': ('place', 'where does the breakfast cereal go?'),
    'the red ball': ('find', 'the red ball'),
    'show me the purple cone, thanks': ('find', 'show me the purple cone, thanks'),
    'something to drink from': ('find', 'something to drink from'),
    'what can I write with': ('find', 'what can I write with'),
    'how many': ('find', 'how many'),
    '': ('find', ''),
}


@pytest.mark.parametrize('text', QUESTIONS)
def test_a_question_is_its_kind_and_its_phrase(text):
    assert parse_question(text) == Question(*QUESTIONS[text])


@pytest.mark.parametrize('text', [text for text, (kind, _) in QUESTIONS.items() if kind != 'find'])
def test_the_embedded_default_can_read_every_phrase(text):
    question = parse_question(text)
    request = parse_query(question.phrase)
    assert request.phrases, request
    if question.kind == 'count':
        assert [phrase.count for phrase in request.phrases] == [0]  # all of them


@pytest.mark.parametrize(
    ('kind', 'phrase', 'answers'),
    [
        ('count', 'mugs', ('There are no mugs.', 'There is one mug.', 'There are two mugs.')),
        (
            'count',
            'boxes that are red',
            (
                'There are no boxes that are red.',
                'There is one box that is red.',
                'There are two boxes that are red.',
            ),
        ),
        (
            'exists',
            'a red tin',
            (
                'No, there is no red tin.',
                'Yes, there is one red tin.',
                'Yes, there are two red tins.',
            ),
        ),
        (
            'exists',
            'mugs left of the box',
            (
                'No, there are no mugs left of the box.',
                'Yes, there is one mug left of the box.',
                'Yes, there are two mugs left of the box.',
            ),
        ),
        (
            'exists',
            'anything to write with',
            (
                'No, there is nothing to write with.',
                'Yes, there is one thing to write with.',
                'Yes, there are two things to write with.',
            ),
        ),
        (
            'exists',
            'the ball red',
            ('No, I see none.', 'Yes, one object fits.', 'Yes, two objects fit.'),
        ),
        (
            'where',
            'the blue mug',
            (
                'I see no blue mug.',
                'The blue mug is left of the box.',
                'I see two blue mugs: left of the box; behind the can.',
            ),
        ),
        (
            'where',
            'strawberries',
            (
                'I see no strawberries.',
                'I see one strawberry: left of the box.',
                'I see two strawberries: left of the box; behind the can.',
            ),
        ),
        (
            'place',
            'where do I put it?',
            (
                'I see no place for it.',
                'It could go left of the box.',
                'It could go left of the box or behind the can.',
            ),
        ),
    ],
)  # fmt: skip
def test_the_answer_is_a_sentence(kind, phrase, answers):
    positions = ('left of the box', 'behind the can')
    for found, answer in enumerate(answers):
        assert answer_sentence(Question(kind, phrase), found, positions[:found]) == answer


def test_a_position_in_the_image_is_told_with_its_distance():
    assert position_in_image((0, 200, 40, 240), 640, 480) == 'at the left of the image'
    far = position_in_image((600, 0, 640, 40), 640, 480, 0.62)
    assert far == 'at the top right of the image, 0.6 m away'
    assert position_in_image((300, 220, 340, 260), 640, 480) == 'in the middle of the image'


@pytest.mark.parametrize(
    ('text', 'task', 'kind'),
    [
        ('how many {}s are there?', Task.ANSWER, 'count'),
        ('is there a {}?', Task.ANSWER, 'exists'),
        ('where is the {}?', Task.ANSWER, 'where'),
    ],
)
def test_the_reasoner_answers_in_words_when_asked_to(text, task, kind):
    scene = make_scene(41_003, sentences=False)
    reasoner = AttributeReasoner()
    there = [item.kind for item in scene.objects if not item.clutter and item.area]
    for noun in ('mug', 'bowl', 'bottle', 'ball', 'cone'):
        objects, told = [], []
        query = Query(text.format(noun), task=task)
        grounding = reasoner.reason(scene.frame, query, told.append, on_object=objects.append)
        assert not objects and not grounding.objects
        assert grounding.answer
        assert ''.join(told).endswith(grounding.answer)
        count = there.count(noun)
        words = {0: 'no', 1: 'one', 2: 'two', 3: 'three', 4: 'four'}[count]
        if kind == 'exists':
            assert grounding.answer.startswith('Yes, ' if count else 'No, ')
        elif kind == 'count':
            assert f' {words} {noun}' in grounding.answer
        else:
            assert ('of the image' in grounding.answer) == bool(count)


def test_a_question_about_a_colour_is_answered_with_it():
    scene, item = next(
        (scene, item)
        for scene in (make_scene(seed, sentences=False) for seed in range(41_003, 41_020))
        for item in scene.objects
        if item.kind in ('mug', 'bowl', 'ball', 'cone') and item.visible > 0.95
        if [other.kind for other in scene.objects].count(item.kind) == 1
    )
    query = Query(f'what colour is the {item.kind}?', task=Task.ANSWER)
    assert item.colour in AttributeReasoner().reason(scene.frame, query).answer


def test_the_task_count_counts_all_of_them_however_they_are_named():
    scene = make_scene(41_003, sentences=False)
    there = sum(item.kind == 'ball' and item.area > 0 for item in scene.objects)
    assert there > 1
    for text in ('the ball', 'how many balls are there', 'is there a ball?'):
        grounding = AttributeReasoner().reason(scene.frame, Query(text, task=Task.COUNT))
        assert len(grounding.objects) == there


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('is there a banana?', '"banana"'),
        ('can you see any red bananas on the table?', '"bananas"'),
        ('do you see a dog left of the mug?', '"dog"'),
        ('how many bananas are there?', '"bananas"'),
        ('where is the banana?', '"banana"'),
        ('what colour is the banana?', '"banana"'),
        ('why is the sky up?', '"why", "sky"'),
    ],
)
def test_what_it_does_not_know_it_cannot_tell_and_says_so(text, words):
    scene = make_scene(41_003, sentences=False)
    pipeline = Pipeline(AttributeReasoner(), GrabCutSegmenter())
    told = []
    listeners = Listeners(on_text=told.append)
    answer = pipeline.answer(scene.frame, Query(text, task=Task.ANSWER), listeners)
    pipeline.close()
    assert answer.status == Status.NOT_FOUND
    yes_or_no = re.match('is there|can you|do you', text)
    no = 'No, none that I can tell.' if yes_or_no else 'I cannot tell.'
    assert answer.answer.startswith(f'{no} I do not know the word')
    assert words in answer.answer and words in answer.message
    assert ''.join(told) == answer.answer


@pytest.mark.parametrize('task', [Task.COUNT, Task.ANSWER])
def test_a_count_of_shapes_without_depth_says_that_it_may_be_wrong(task):
    scene = make_scene(41_003, sentences=False)
    flat = replace(scene.frame, depth=None)
    pipeline = Pipeline(AttributeReasoner(), GrabCutSegmenter())
    said = {
        (text, frame): pipeline.answer(frame, Query(text, task=task)).message
        for text in ('how many mugs are there?', 'how many red things are there?')
        for frame in (scene.frame, flat)
    }
    pipeline.close()
    unsure = {key for key, message in said.items() if 'the number may be wrong' in message}
    assert unsure == {('how many mugs are there?', flat)}
    assert 'There is no depth' in said['how many mugs are there?', flat]


def test_counts_and_yes_or_no_are_right_on_a_scene():
    scene = make_scene(41_003, sentences=False)
    reasoner = AttributeReasoner()
    clear = [item for item in scene.objects if not item.clutter and item.area]
    assert all(item.visible > 0.3 for item in clear)
    for kind in ('mug', 'bowl', 'bottle', 'ball', 'can', 'cone', 'plate', 'book', 'box'):
        there = sum(item.kind == kind for item in clear)
        plural = 'boxes' if kind == 'box' else f'{kind}s'
        counted = parse_question(f'how many {plural} are there?')
        assert len(reasoner.reason(scene.frame, Query(counted.phrase)).objects) == there, kind
        asked = parse_question(f'is there a {kind} on the table?')
        assert bool(reasoner.reason(scene.frame, Query(asked.phrase)).objects) == bool(there)


@settings(max_examples=200, deadline=None)
@given(strategies.text(max_size=200))
def test_any_text_is_a_question_of_some_kind(text):
    question = parse_question(text)
    assert question.kind in ('count', 'exists', 'where', 'place', 'find')
    assert answer_sentence(question, 0)
    assert answer_sentence(question, 2, ('here', 'there'))


@pytest.mark.parametrize(
    'piece', ['please ', 'how many ', 'on the table ', 'is there ', 'where do ', 'a']
)
def test_reading_takes_time_in_proportion_to_the_text(piece):
    def seconds(times):
        started = time.thread_time()
        parse_question(piece * times)
        return time.thread_time() - started

    seconds(100)
    short, long = (min(seconds(times) for _ in range(3)) for times in (500, 10_000))
    assert long < 120 * max(short, 1e-3)
