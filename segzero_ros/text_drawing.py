"""Draw text into images: any script with OpenCV 5, which carries its own fonts; Latin before."""

from __future__ import annotations

import unicodedata

import cv2
import numpy as np
from numpy.typing import NDArray

_BOLD, _REGULAR = 600, 400
_ELLIPSIS = '…'
# What unicodedata knows no Latin letters for.
_SPELLED = str.maketrans(
    {
        'ß': 'ss', 'æ': 'ae', 'Æ': 'AE', 'ø': 'o', 'Ø': 'O', 'œ': 'oe', 'Œ': 'OE', 'ł': 'l',
        'Ł': 'L', 'đ': 'd', 'Đ': 'D', 'þ': 'th', 'Þ': 'Th', 'ð': 'd', 'Ð': 'D', '“': '"',
        '”': '"', '„': '"', '«': '"', '»': '"', '→': '->', '·': '.', '≥': '>=', '≤': '<=',
        '\N{LEFT SINGLE QUOTATION MARK}': "'", '\N{RIGHT SINGLE QUOTATION MARK}': "'",
        '\N{EN DASH}': '-', '—': '-', '\N{MINUS SIGN}': '-', '\N{MULTIPLICATION SIGN}': 'x',
    }
)  # fmt: skip


def plain(text: str) -> str:
    """Spell a text in ASCII; a letter without a Latin spelling becomes its Unicode number."""
    decomposed = unicodedata.normalize('NFKD', text.translate(_SPELLED))
    return ''.join(
        letter if letter.isascii() else f'U+{ord(letter):04X}'
        for letter in decomposed
        if not unicodedata.combining(letter)
    )


class TextDrawing:
    """Measures, wraps and writes text, in pixels of the picture."""

    def __init__(self) -> None:
        # OpenCV 4, as Ubuntu's python3-opencv, has only the ASCII strokes of Hershey's fonts.
        self._face = cv2.FontFace('sans') if hasattr(cv2, 'FontFace') else None

    def width(self, text: str, size: int, *, bold: bool = False) -> float:
        """Return how many pixels wide the text is at this height of the letters' em, in pixels."""
        if self._face is None:
            scale, thickness = self._hershey(size, bold=bold)
            return float(
                cv2.getTextSize(plain(text), cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0]
            )
        weight = _BOLD if bold else _REGULAR
        area = cv2.getTextSize((1 << 20, 1 << 10), text, (0, 0), self._face, size, weight)
        return float(area[0] + area[2])

    def write(
        self,
        picture: NDArray[np.uint8],
        text: str,
        origin: tuple[int, int],
        size: int,
        colour: tuple[int, int, int],
        *,
        bold: bool = False,
    ) -> None:
        """Write one line of text into the picture; origin is the left end of the baseline."""
        if self._face is None:
            scale, thickness = self._hershey(size, bold=bold)
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(picture, plain(text), origin, font, scale, colour, thickness, cv2.LINE_AA)
            return
        weight = _BOLD if bold else _REGULAR
        cv2.putText(picture, text, origin, colour, self._face, size, weight)

    def shorten(self, text: str, size: int, room: float, *, bold: bool = False) -> str:
        """Return the text, cut with an ellipsis where it is wider than the room."""
        if self.width(text, size, bold=bold) <= room:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.width(text[:middle].rstrip() + _ELLIPSIS, size, bold=bold) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        return text[:low].rstrip() + _ELLIPSIS

    def wrap(
        self, text: str, size: int, room: float, most_lines: int, *, bold: bool = False
    ) -> list[str]:
        """Break a text into lines of at most `room` pixels; one too long ends in an ellipsis."""
        lines: list[str] = []
        rest = text
        while rest:
            if len(lines) == most_lines - 1:
                return [*lines, self.shorten(rest, size, room, bold=bold)]
            cut = self._fitting(rest, size, room, bold=bold)
            lines.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        return lines

    def _fitting(self, text: str, size: int, room: float, *, bold: bool) -> int:
        """Return how many characters go on a line: whole words, or a part of one too long."""
        low, high = 1, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.width(text[:middle].rstrip(), size, bold=bold) <= room:
                low = middle
            else:
                high = middle - 1
        if low == len(text):
            return low
        space = text.rfind(' ', 1, low + 1)
        return space if space > 0 else low

    @staticmethod
    def _hershey(size: int, *, bold: bool) -> tuple[float, int]:
        # Its capitals are 21 units high; an em of the built-in font has capitals of 0.72 em.
        return size * 0.72 / 21, max(1, round(size / (9 if bold else 14)))
