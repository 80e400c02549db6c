"""Text for ROS strings, terminals and queries."""

import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from segzero_ros.conversions.text import clean_text, printable, read_query


@pytest.mark.parametrize(
    ('text', 'cleaned'),
    [
        ('grüße\n\t☕ 杯', 'grüße\n\t☕ 杯'),
        ('a\0b', 'a\ufffdb'),
        ('a\ud83db', 'a\ufffdb'),
        ('\udc80', '\ufffd'),
        ('\ud83d\ude00', '\N{GRINNING FACE}'),
        ('\x1b[31m\u202e', '\x1b[31m\u202e'),
    ],
)
def test_a_ros_string_loses_only_what_it_cannot_carry(text, cleaned):
    assert clean_text(text) == cleaned


@pytest.mark.parametrize(
    ('text', 'printed'),
    [
        ('the red cup\n\tis left', 'the red cup\n\tis left'),
        ('左边的 🔴 Größe', '左边的 🔴 Größe'),
        ('\x1b[2Jgone', '\ufffd[2Jgone'),
        ('\x1b]0;title\x07', '\ufffd]0;title\ufffd'),
        ('\x9b31mred', '\ufffd31mred'),
        ('over\rwritten\b', 'over\ufffdwritten\ufffd'),
        ('\u202etxt.exe\u2069', '\ufffdtxt.exe\ufffd'),
        ('half \ud83d', 'half \ufffd'),
        ('nul \0', 'nul \ufffd'),
    ],
)
def test_printable_replaces_control_characters_and_keeps_letters(text, printed):
    assert printable(text) == printed


@given(st.text())
def test_printable_text_has_no_control_characters_and_the_same_length(text):
    printed = printable(text)
    assert len(printed) == len(text)
    assert not any((ord(c) < 32 and c not in '\n\t') or 0x7F <= ord(c) <= 0x9F for c in printed)
    printed.encode()
    assert printable(printed) == printed


@pytest.mark.parametrize(
    ('text', 'query'),
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
def test_a_query_is_put_on_one_line(text, query):
    assert read_query(text, 50) == (query, '')


@pytest.mark.parametrize(
    'text', ['', ' ', '\n\t ', '\x00\x01', '\u200b\u200d', '\u3000', '\u2028']
)
def test_a_query_without_visible_characters_is_empty(text):
    assert 'is empty' in read_query(text, 50)[1]


def test_a_long_query_is_rejected_with_both_lengths_and_repeated_in_part():
    query, reason = read_query('word ' * 100, 50)
    assert '500 characters' in reason
    assert 'at most 50' in reason
    assert len(query) <= 51


def test_a_huge_query_is_rejected_without_being_normalised():
    text = 'a\x00' * 5_000_000
    started = time.process_time()
    query, reason = read_query(text, 2000)
    # Normalising all of it takes seconds and would block the executor's thread.
    assert time.process_time() - started < 0.1
    assert reason
    assert len(query) <= 201
