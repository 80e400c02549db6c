"""What a sentence must be to be asked. Knows nothing of ROS."""

from __future__ import annotations

import unicodedata

# What stays of a text that is too long to be asked, in the result that says so.
ECHOED = 200


def read_query(text: str, longest: int) -> tuple[str, str]:
    """Return the text as it is asked, and why it cannot be asked; one reason at most.

    Args:
        text: as it came. Control characters, line ends among them, are read as spaces, and runs of
            white space as one.
        longest: most characters that it may have.

    Returns:
        The text on one line, cut short when it is too long, and a sentence that says what is wrong
        with it, empty when nothing is.
    """
    if len(text) > longest:
        complaint = (
            f'The query has {len(text)} characters, but max_query_length allows {longest}; '
            'ask in fewer words.'
        )
        return tidy(text[: min(ECHOED, longest)]) + '…', complaint
    tidied = tidy(text)
    if not any(unicodedata.category(character)[0] not in 'CZ' for character in tidied):
        return tidied, 'The query is empty; say what to look for, such as "the red cup".'
    return tidied, ''


def tidy(text: str) -> str:
    """Return the text on one line: control characters and runs of white space become one space."""
    visible = ''.join(
        ' ' if unicodedata.category(character) == 'Cc' else character for character in text
    )
    return ' '.join(visible.split())
