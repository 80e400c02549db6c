"""A segmenter's mask, stored in little memory."""

from __future__ import annotations

from collections.abc import Iterator
import zlib

import numpy as np

from segzero_ros.types import in_image, Mask, Roi

# A mask whose box has more pixels than this is stored compressed.
MAX_UNCOMPRESSED_PIXELS = 2**20
# zlib's fastest level: most masks are a few runs per row.
_ZLIB_LEVEL = 1


class SegmentedMask:
    """A segmenter's mask of one grounded object; unpacks as (mask, score).

    Only the mask's bounding box is stored, and a large one is compressed: the masks of all objects
    in a large image would need too much memory otherwise.

    Attributes:
        roi: the mask's bounding box; width and height 0 for an empty mask.
        size: (height, width) of the source image.
        score: the segmenter's estimate of the mask's IoU, 0 to 1; NaN if it has none.
    """

    __slots__ = ('_bits', '_cropped', 'roi', 'score', 'size')

    def __init__(self, mask: Mask, score: float) -> None:
        """Store a mask.

        Args:
            mask: (H, W) bool, of the source image's size; it is copied.
            score: the segmenter's estimate of its IoU; NaN if it has none.
        """
        self.roi = Roi.around(mask)
        self.size = (int(mask.shape[0]), int(mask.shape[1]))
        self.score = score
        cropped = mask[self.roi.slices]
        compress = cropped.size > MAX_UNCOMPRESSED_PIXELS
        bits = np.packbits(cropped).tobytes() if compress else b''
        self._bits = zlib.compress(bits, _ZLIB_LEVEL) if compress else b''
        self._cropped: Mask | None = None if compress else cropped.copy()

    @classmethod
    def from_window(
        cls, window: Mask, x: int, y: int, size: tuple[int, int], score: float
    ) -> SegmentedMask:
        """Return a mask that is given in one window of the image and empty elsewhere.

        Args:
            window: (h, w) bool.
            x: the window's first column in the image.
            y: the window's first row in the image.
            size: (height, width) of the source image.
            score: the segmenter's estimate of the mask's IoU; NaN if it has none.
        """
        mask = cls(window, score)
        if mask.roi.width:
            mask.roi = mask.roi._replace(x=mask.roi.x + x, y=mask.roi.y + y)
        mask.size = size
        return mask

    @property
    def cropped(self) -> Mask:
        """The mask inside its bounding box, (roi.height, roi.width) bool."""
        if self._cropped is not None:
            return self._cropped
        count = self.roi.width * self.roi.height
        bits = np.frombuffer(zlib.decompress(self._bits), np.uint8)
        mask: Mask = np.unpackbits(bits, count=count).astype(np.bool_, copy=False)
        return mask.reshape(self.roi.height, self.roi.width)

    @property
    def mask(self) -> Mask:
        """The mask at the source image's size, (H, W) bool; a new array each time."""
        return in_image(self.cropped, self.roi, *self.size)

    def __iter__(self) -> Iterator[Mask | float]:
        """Yield the mask at the source image's size, then the score."""
        yield self.mask
        yield self.score
