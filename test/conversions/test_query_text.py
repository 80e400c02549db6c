"""What can be asked, and what the asker is told otherwise."""

import time

import pytest

from segzero_ros.conversions.query_text import read_query


@pytest.mark.parametrize(
    ('text', 'asked'),
    [
        ('the red cup', 'the red cup'),
        ('  the red cup \n', 'the red cup'),
        ('the\tred\r\ncup', 'the red cup'),
        ('the\x00red\x07cup\x1b[31m', 'the red cup [31m'),
        ('the red  cup', 'the red cup'),
        ('das grüne Häuschen', 'das grüne Häuschen'),
        ('左边的红色杯子', '左边的红色杯子'),
        ('🍎?', '🍎?'),
        ('x' * 50, 'x' * 50),
    ],
)
def test_text_is_asked_on_one_line(text, asked):
    assert read_query(text, 50) == (asked, '')


@pytest.mark.parametrize(
    'text', ['', ' ', '\n\t ', '\x00\x01', '\u200b\u200d', '\u3000', '\u2028']
)
def test_text_without_anything_to_read_is_called_empty(text):
    assert 'is empty' in read_query(text, 50)[1]


def test_a_long_text_is_refused_with_both_lengths_and_echoed_in_part():
    asked, complaint = read_query('word ' * 100, 50)
    assert '500 characters' in complaint
    assert 'allows 50' in complaint
    assert len(asked) <= 51


def test_a_huge_text_is_refused_without_being_read():
    text = 'a\x00' * 5_000_000
    started = time.perf_counter()
    asked, complaint = read_query(text, 2000)
    # Reading it through takes seconds; the executor's thread does not have them.
    assert time.perf_counter() - started < 0.1
    assert complaint
    assert len(asked) <= 201
