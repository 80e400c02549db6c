"""Untrusted text: models, servers, clients and bags may send any characters.

Each function serves another consumer: `clean_text` a ROS string field, `printable` a terminal,
`read_query` and `single_line` the reasoning model's prompt.
"""

from __future__ import annotations

import re
import unicodedata

# Control characters except tab and newline (ESC starts sequences that move the cursor, set the
# window title or inject input), bidirectional overrides, and lone surrogates.
_UNPRINTABLE = re.compile(
    '[\x00-\x08\x0b-\x1f\x7f-\x9f\N{LEFT-TO-RIGHT EMBEDDING}-\N{RIGHT-TO-LEFT OVERRIDE}'
    '\N{LEFT-TO-RIGHT ISOLATE}-\N{POP DIRECTIONAL ISOLATE}\ud800-\udfff]'
)
# Longest accepted query, in characters.
MAX_QUERY_LENGTH = 2000
# Characters of an over-long query that its result repeats.
MAX_ECHO_LENGTH = 200
# Longest accepted id of a query, in characters: it is repeated with every piece of the reasoning.
MAX_ID_LENGTH = 200


def clean_text(text: str) -> str:
    """Return text that a ROS string can carry.

    NUL, which would end the string in C, and lone surrogates, which are not valid UTF-8, become
    U+FFFD. A surrogate pair that was split across two pieces is joined.
    """
    joined = text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
    return joined.replace('\0', '\N{REPLACEMENT CHARACTER}')


def printable(text: str) -> str:
    """Return text that is safe to print to a terminal.

    Control characters, bidirectional overrides and lone surrogates become U+FFFD, one for one.
    """
    return _UNPRINTABLE.sub('\N{REPLACEMENT CHARACTER}', text)


def read_query(text: str, max_length: int = MAX_QUERY_LENGTH) -> tuple[str, str]:
    """Normalise a query and validate it.

    Args:
        text: as received.
        max_length: longest accepted query, in characters.

    Returns:
        The query on a single line (see `single_line`), truncated if it is too long, and the
        reason for rejecting it; empty for a valid query.
    """
    if len(text) > max_length:
        # Only the part that is repeated is normalised: the full text may be megabytes.
        echo = single_line(text[: min(MAX_ECHO_LENGTH, max_length)]) + '…'
        return echo, (
            f'The query has {len(text)} characters, but at most {max_length} are allowed; '
            'shorten it.'
        )
    query = single_line(text)
    if not any(unicodedata.category(character)[0] not in 'CZ' for character in query):
        return query, 'The query is empty; name what to look for, such as "the red cup".'
    return query, ''


def single_line(text: str) -> str:
    """Return the text with each run of control characters and whitespace as a single space."""
    visible = ''.join(
        ' ' if unicodedata.category(character) == 'Cc' else character for character in text
    )
    return ' '.join(visible.split())
