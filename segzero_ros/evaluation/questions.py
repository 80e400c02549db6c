"""The questions of points sets, without what only the papers' own models need."""

from __future__ import annotations

import re

# A placeholder for the image, and the sentences about the form of the answer that RoboPoint's
# prompts end with. A dialect asks for its own form.
_IMAGE = re.compile(r'\s*<image>\s*')
_FORM = re.compile(r'\s*Your answer should be formatted as\b.*', re.DOTALL)


def bare_question(text: str) -> str:
    """Return a question without the image's placeholder and without the form of the answer.

    A text that is nothing else stays as it is.
    """
    bare = _FORM.sub('', _IMAGE.sub(' ', text)).strip()
    return bare or text
