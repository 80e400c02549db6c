"""Draw text into images: any script with OpenCV 5, which includes fonts; ASCII with OpenCV 4."""

from __future__ import annotations

import unicodedata

import cv2
import numpy as np
from numpy.typing import NDArray

_BOLD, _REGULAR = 600, 400
_ELLIPSIS = '…'
# ASCII spellings that Unicode decomposition does not give.
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
    """Return the text in ASCII; a character without an ASCII spelling becomes U+XXXX."""
    decomposed = unicodedata.normalize('NFKD', text.translate(_SPELLED))
    return ''.join(
        letter if letter.isascii() else f'U+{ord(letter):04X}'
        for letter in decomposed
        if not unicodedata.combining(letter)
    )


class TextDrawing:
    """Measures, wraps and draws text, in pixels."""

    def __init__(self) -> None:
        # OpenCV 4, as in Ubuntu's python3-opencv, has only the Hershey fonts, which are ASCII.
        self._face = cv2.FontFace('sans') if hasattr(cv2, 'FontFace') else None

    def width(self, text: str, size: int, *, bold: bool = False) -> float:
        """Return the width of a text.

        Args:
            text: a single line.
            size: em size.
            bold: whether to use the bold font.
        """
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
        image: NDArray[np.uint8],
        text: str,
        origin: tuple[int, int],
        size: int,
        colour: tuple[int, int, int],
        *,
        bold: bool = False,
    ) -> None:
        """Draw a single line of text.

        Args:
            image: (H, W, 3), changed in place.
            text: a single line.
            origin: left end of the baseline (x, y).
            size: em size.
            colour: (r, g, b).
            bold: whether to use the bold font.
        """
        if self._face is None:
            scale, thickness = self._hershey(size, bold=bold)
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(image, plain(text), origin, font, scale, colour, thickness, cv2.LINE_AA)
            return
        weight = _BOLD if bold else _REGULAR
        cv2.putText(image, text, origin, colour, self._face, size, weight)

    def shorten(self, text: str, size: int, max_width: float, *, bold: bool = False) -> str:
        """Return the text, truncated with an ellipsis if it is wider than max_width."""
        if self.width(text, size, bold=bold) <= max_width:
            return text
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.width(text[:middle].rstrip() + _ELLIPSIS, size, bold=bold) <= max_width
            low, high = (middle, high) if fits else (low, middle - 1)
        return text[:low].rstrip() + _ELLIPSIS

    def wrap(
        self, text: str, size: int, max_width: float, max_lines: int, *, bold: bool = False
    ) -> list[str]:
        """Break a text into lines; a text that is too long ends in an ellipsis.

        Args:
            text: to break.
            size: em size.
            max_width: of a line.
            max_lines: number of lines.
            bold: whether to use the bold font.
        """
        lines: list[str] = []
        rest = text
        while rest:
            if len(lines) == max_lines - 1:
                return [*lines, self.shorten(rest, size, max_width, bold=bold)]
            cut = self._line_length(rest, size, max_width, bold=bold)
            lines.append(rest[:cut].rstrip())
            rest = rest[cut:].lstrip()
        return lines

    def _line_length(self, text: str, size: int, max_width: float, *, bold: bool) -> int:
        """Return the number of characters on a line: whole words, or part of an over-long one."""
        low, high = 1, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            if self.width(text[:middle].rstrip(), size, bold=bold) <= max_width:
                low = middle
            else:
                high = middle - 1
        if low == len(text):
            return low
        space = text.rfind(' ', 1, low + 1)
        return space if space > 0 else low

    @staticmethod
    def _hershey(size: int, *, bold: bool) -> tuple[float, int]:
        # Hershey capitals are 21 units high, those of OpenCV 5's font 0.72 em.
        return size * 0.72 / 21, max(1, round(size / (9 if bold else 14)))
