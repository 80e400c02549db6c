"""Sentences are read as people mean them, and what cannot be read is named."""

import time

from hypothesis import given, settings, strategies
import pytest

from segzero_ros.reasoning.attributes.language import parse_query
from segzero_ros.reasoning.attributes.words import words


def told(phrase):
    """Write a phrase down in short: qualities, noun, picks, relations, exclusions and count."""
    parts = []
    for quality in phrase.qualities:
        parts.append(('not ' if quality.negated else '') + '|'.join(quality.names))
    parts.append(phrase.kind or 'thing')
    for pick in phrase.picks:
        parts.append(f'{"+" if pick.sign > 0 else "-"}{pick.measure}{pick.rank}')
    for relation in phrase.relations:
        others = ' & '.join(told(other) for other in relation.others)
        parts.append(f'{"not " if relation.negated else ""}{relation.kind}({others})')
    for exclusion in phrase.exclusions:
        parts.append(f'except({told(exclusion)})')
    if phrase.count != 1:
        parts.append(f'x{phrase.count or "all"}')
    return ' '.join(parts)


SENTENCES = {
    # colours, shapes, nouns, and what people say around them
    'the red ball': 'red ball',
    'Could you please show me the purple cone, thanks?': 'purple cone',
    'I am looking for the navy mug. Can you see it?': 'dark blue mug',
    'a light blue cup': 'light blue mug',
    'the dark one': 'dark thing',
    'the long thin thing': 'long long thing',
    'the pencil': 'stick',
    'the orange-coloured tin': 'orange can',
    'the thing that is red and round': 'red round thing',
    'the red and white ball': 'red white ball',
    'the red or blue ball': 'red|blue ball',
    'red and blue balls': 'red|blue ball xall',
    'the ball that is not red': 'not red ball',
    'neither red nor blue balls': 'not red not blue ball xall',
    # how many
    'the three balls': 'ball x3',
    'two red things': 'red thing x2',
    'all the cans': 'can xall',
    'every red box': 'red box xall',
    'both plates': 'plate x2',
    'one of the red balls': 'red ball',
    'what can I grab that is blue?': 'blue thing xall',
    'how many red balls are there?': 'red ball xall',
    # extremes and ordinals
    'the largest blue box': 'blue box +size1',
    'which of the boxes is the smallest?': 'box -size1',
    'the largest of the three balls': 'ball +size1',
    'the two largest balls': 'ball +size1 x2',
    'the second largest object': 'thing +size2',
    'the second object from the left': 'thing -x2',
    'the last object from the left': 'thing +x1',
    'the third ball': 'ball -x3',
    'the leftmost bottle': 'bottle -x1',
    'the item on the far right': 'thing +x1',
    'the object nearest to the left edge': 'thing -x1',
    'the object closest to the bottom of the picture': 'thing +y1',
    'the cup nearest to the centre of the table': 'mug +centrality1',
    'the nearest object': 'thing -depth1',
    'the object closest to the camera': 'thing -depth1',
    'the most distant can': 'can +depth1',
    'the middle ball': 'ball +middle1',
    # places
    'the ball in the upper right corner': 'top right ball',
    'the top-left object': 'top left thing',
    'the thing on the left of the table': 'left thing',
    'the orange thing in the middle': 'orange centre thing',
    'the left one of the two balls': 'left ball',
    # relations
    'the ball left of the box': 'ball left_of(box)',
    'the box on the right of the can': 'box right_of(can)',
    'the mug in front of the red book': 'mug in_front(red book)',
    'the mug behind the plate': 'mug behind(plate)',
    'the ball closest to the box': 'ball near(box)',
    'the ball nearest the box': 'ball near(box)',
    'the thing between the red ball and the green box': 'thing between(red ball & green box)',
    'the ball between the two boxes': 'ball between(box x2)',
    'the pen left of the blue box next to the cone': 'stick left_of(blue box near(cone))',
    'the ball left of the box and above the mug': 'ball left_of(box) above(mug)',
    'the box bigger than the red ball': 'box larger(red ball)',
    'the thing of the same colour as the ball': 'thing same_colour(ball)',
    'the thing on the plate': 'thing on(plate)',
    'the red thing on the table': 'red thing',
    # exceptions
    'everything except the red ball': 'thing except(red ball) xall',
    'every ball but the red one': 'ball except(red thing) xall',
    # several phrases
    'the red ball and the blue box': 'red ball; blue box',
    'the red and the blue ball': 'red ball; blue ball',
    'all balls and boxes': 'ball xall; box xall',
    'the ball, the one on the left': 'left ball',
}


@pytest.mark.parametrize('sentence', SENTENCES)
def test_a_sentence_is_read_as_people_mean_it(sentence):
    request = parse_query(sentence)
    assert not request.unknown
    assert not request.problem
    assert '; '.join(map(told, request.phrases)) == SENTENCES[sentence]


def test_asking_how_many_is_told_from_asking_for_them():
    assert parse_query('how many mugs do you see?').counting
    assert not parse_query('the mugs').counting


@pytest.mark.parametrize(
    ('sentence', 'unknown'),
    [
        ('I am hungry', ('hungry',)),
        ('something to cut with', ('cut',)),
        ('the astronaut next to the red banana', ('astronaut', 'banana')),
        ('das rote Auto', ('das', 'rote', 'auto')),
        ('the red spoon', ('spoon',)),
    ],
)
def test_words_that_matter_and_are_not_known_are_named(sentence, unknown):
    request = parse_query(sentence)
    assert request.unknown == unknown
    assert not request.phrases


@pytest.mark.parametrize('sentence', ['', '   ', '?!', 'please', 'the', 'where is it?'])
def test_a_sentence_that_asks_for_nothing_says_so(sentence):
    request = parse_query(sentence)
    assert not request.phrases
    assert 'nothing' in request.problem


def test_relations_may_not_nest_without_end():
    sentence = 'the ball' + ' left of the box' * 12
    assert 'relations' in parse_query(sentence).problem


def test_labels_are_in_the_sentences_words():
    (phrase,) = parse_query('show me the two small crimson cubes left of the plate').phrases
    assert phrase.label == 'small crimson cube'


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(strategies.lists(strategies.sampled_from([*words(), 'left of', 'from the left', 'xyzzy'])))
def test_any_row_of_known_words_is_read_without_failing(row):
    request = parse_query(' '.join(row))
    assert request.phrases or request.unknown or request.problem


@settings(max_examples=200, deadline=None)
@given(strategies.text(max_size=200))
def test_any_text_is_read_without_failing(text):
    request = parse_query(text)
    assert request.phrases or request.unknown or request.problem


@pytest.mark.slow
@pytest.mark.parametrize(
    'piece',
    ['left of the ', 'red ', 'a', "'", 'closest to the left ', ', ', 'between the box and '],
)
def test_reading_takes_time_in_proportion_to_the_text(piece):
    def seconds(times):
        # Of this thread alone: others may keep the machine busy.
        started = time.thread_time()
        parse_query(piece * times)
        return time.thread_time() - started

    seconds(100)
    short, long = (min(seconds(times) for _ in range(3)) for times in (500, 10_000))
    # Twenty times the text; a quadratic reader would need four hundred times as long.
    assert long < 120 * max(short, 1e-3)
