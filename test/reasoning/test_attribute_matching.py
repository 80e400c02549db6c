"""Conditions choose the regions that a person would point at, and no others."""

import cv2
import numpy as np
import pytest

from segzero_ros.reasoning.attribute_reasoner import AttributeReasoner
from segzero_ros.types import Frame, Query

# What is drawn, and where: a flat picture without depth.
RED_DISC, BLUE_SQUARE, GREEN_DISC, RED_BAR, YELLOW_TRIANGLE = (
    (60, 160), (250, 150), (150, 45), (150, 210), (270, 50),
)  # fmt: skip


@pytest.fixture(scope='module')
def frame():
    picture = np.full((240, 320, 3), (170, 168, 165), np.uint8)
    cv2.circle(picture, RED_DISC, 34, (200, 25, 30), cv2.FILLED)
    cv2.rectangle(picture, (222, 122), (278, 178), (35, 70, 200), cv2.FILLED)
    cv2.circle(picture, GREEN_DISC, 18, (30, 140, 50), cv2.FILLED)
    cv2.rectangle(picture, (115, 205), (185, 215), (200, 25, 30), cv2.FILLED)
    cv2.fillPoly(picture, [np.array([(270, 25), (248, 72), (292, 72)])], (240, 215, 30))
    return Frame(picture)


@pytest.fixture(scope='module')
def reasoner():
    return AttributeReasoner()


MEANT = {
    'the green thing': [GREEN_DISC],
    'all red things': [RED_DISC, RED_BAR],
    'the red and blue things': [RED_DISC, RED_BAR, BLUE_SQUARE],
    'the things that are not red': [BLUE_SQUARE, GREEN_DISC, YELLOW_TRIANGLE],
    'the round things': [RED_DISC, GREEN_DISC],
    'the long red thing': [RED_BAR],
    'the round red thing': [RED_DISC],
    'the largest thing': [RED_DISC],
    'the smallest round thing': [GREEN_DISC],
    'the bigger red thing': [RED_DISC],
    'the second largest thing': [BLUE_SQUARE],
    'the two largest things': [RED_DISC, BLUE_SQUARE],
    'the leftmost thing': [RED_DISC],
    'the thing on the far right': [YELLOW_TRIANGLE],
    'the second thing from the right': [BLUE_SQUARE],
    'the highest red thing': [RED_DISC],
    'the thing in the top right corner': [YELLOW_TRIANGLE],
    'the red thing at the bottom': [RED_BAR],
    'the red thing nearest to the bottom edge': [RED_BAR],
    'the red thing left of the blue square': [RED_DISC],
    'the thing above the blue square': [YELLOW_TRIANGLE],
    'the thing below the blue square': [RED_BAR],
    'the thing between the yellow thing and the red disc': [GREEN_DISC],
    'the thing between the yellow thing and the blue square': [],
    'the red thing closest to the green thing': [RED_DISC],
    'the thing farthest from the yellow thing': [RED_DISC],
    'the thing of the same colour as the long thing': [RED_DISC],
    'the red thing smaller than the blue square': [RED_BAR],
    'everything except the red things': [BLUE_SQUARE, GREEN_DISC, YELLOW_TRIANGLE],
    'all round things but the green one': [RED_DISC],
    'the red disc and the yellow thing': [RED_DISC, YELLOW_TRIANGLE],
    'the pointed thing': [YELLOW_TRIANGLE],
    'how many red things are there?': [RED_DISC, RED_BAR],
    # what is not there
    'the purple thing': [],
    'the green thing at the bottom': [],
    'the third red thing from the left': [],
    'the red thing right of the blue square': [],
    'the yellow thing left of the purple thing': [],
    'the blue thing in the top left corner': [],
    'the round blue thing': [],
}


@pytest.mark.parametrize('sentence', MEANT)
def test_a_sentence_means_what_a_person_would_point_at(frame, reasoner, sentence):
    grounding = reasoner.reason(frame, Query(sentence))
    found = sorted(point for found in grounding.objects for point in found.points)
    meant = sorted(MEANT[sentence])
    assert len(found) == len(meant), grounding.reasoning
    for point, middle in zip(found, meant, strict=True):
        assert np.hypot(*np.subtract(point, middle)) < 24


@pytest.mark.parametrize(
    ('sentence', 'told'),
    [
        ('the purple thing', 'Of five things, none of them is purple'),
        ('the purple thing', 'two red, one green, one blue and one yellow'),
        ('the third red thing', 'There is no third: only two things fit'),
        ('the round blue thing', 'it is not round'),
        ('the yellow thing left of the purple thing', 'I see no purple thing'),
        ('the thing behind the nearest object', 'no depth'),
    ],
)
def test_the_note_says_truly_why_there_is_nothing(frame, reasoner, sentence, told):
    assert told in reasoner.reason(frame, Query(sentence)).note


@pytest.mark.parametrize(
    ('sentence', 'told'),
    [
        ('the red thing on the left', 'Two of five are red'),
        ('the largest thing', 'Of five things, the red patch is largest in the picture'),
        ('the red thing', 'one more fits too'),
        ('the thing above the blue square', 'above the blue patch on the right'),
        ('how many round things are there?', 'I count two round things'),
    ],
)
def test_the_reasoning_says_truly_what_was_seen(frame, reasoner, sentence, told):
    assert told in reasoner.reason(frame, Query(sentence)).reasoning
