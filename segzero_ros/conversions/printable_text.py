"""Text of strangers on a terminal: models, servers and bags write what they like."""

from __future__ import annotations

import re

# Control characters but tab and line end: ESC begins sequences that move the cursor, set the
# window's title or answer as if typed. And what turns the order of the letters after it around.
_ACTIVE = re.compile(
    '[\x00-\x08\x0b-\x1f\x7f-\x9f\N{LEFT-TO-RIGHT EMBEDDING}-\N{RIGHT-TO-LEFT OVERRIDE}'
    '\N{LEFT-TO-RIGHT ISOLATE}-\N{POP DIRECTIONAL ISOLATE}\ud800-\udfff]'
)


def printable(text: str) -> str:
    """Return text that does nothing to a terminal but show letters.

    Active characters become U+FFFD, and so do halves of characters, which cannot be printed.
    """
    return _ACTIVE.sub('\N{REPLACEMENT CHARACTER}', text)
