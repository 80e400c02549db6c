"""What a terminal would obey is shown as what it is: nothing."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from segzero_ros.conversions.printable_text import printable


@pytest.mark.parametrize(
    ('text', 'shown'),
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
def test_active_characters_are_replaced_and_letters_stay(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_nothing_active_is_left_and_nothing_is_lost(text):
    shown = printable(text)
    assert len(shown) == len(text)
    assert not any((ord(c) < 32 and c not in '\n\t') or 0x7F <= ord(c) <= 0x9F for c in shown)
    shown.encode()
    assert printable(shown) == shown
