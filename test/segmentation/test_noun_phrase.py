"""Which queries go past the reasoner: plain noun phrases, and nothing with a condition."""

import pytest

from segzero_ros.segmentation.noun_phrase import noun_phrase


@pytest.mark.parametrize(
    ('text', 'phrase'),
    [
        ('red mug', 'red mug'),
        ('the red mug', 'red mug'),
        ('The red mug.', 'red mug'),
        ('a screwdriver', 'screwdriver'),
        ('an apple', 'apple'),
        ('mugs', 'mugs'),
        ('  white   USB cable ', 'white USB cable'),
        ('dark blue T-shirt', 'dark blue T-shirt'),
        ('treasure chest', 'treasure chest'),
        ('washing machine', 'washing machine'),
        ('tall red brick building', 'tall red brick building'),
        ('die rote Tasse', 'die rote Tasse'),
        ('Löffel', 'Löffel'),
    ],
)
def test_a_plain_noun_phrase_is_taken_without_its_article(text, phrase):
    assert noun_phrase(text) == phrase


@pytest.mark.parametrize(
    'text',
    [
        '',
        '   ',
        'the',
        'red mug?',
        'where is the mug',
        'what can I drink from',
        'something to drink from',
        'pick up the mug',
        'find the mug',
        'mug on the plate',
        'the mug left of the tin',
        'the left mug',
        'leftmost mug',
        'the largest mug',
        'the sharpest knife',
        'rearmost chair',
        'north-westernmost mug',
        'the second mug',
        'two mugs',
        'all mugs',
        '3 mugs',
        'no mug',
        'the other mug',
        'my mug',
        'mug and plate',
        'mug, plate',
        'the mug that is empty',
        'person holding cup',
        'man running',
        'left-hand drawer',
        "the dog's left ear",
        'a very large dark red mug',
        'red mug!',
        'mug_1',
        'it',
    ],
)
def test_what_has_a_condition_or_is_no_phrase_goes_to_the_reasoner(text):
    assert noun_phrase(text) == ''
