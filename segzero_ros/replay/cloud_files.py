"""The clouds of a replay's answers, as NumPy files until the bag is written."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from segzero_ros.conversions.point_cloud import Packed, POINT, PointPacker
from segzero_ros.replay.output import OutputError, ReplayOutput
from segzero_ros.spatial.clouds import cloud_of
from segzero_ros.types import Answer

_RAW = np.dtype(f'V{POINT.itemsize}')


class CloudFiles:
    """Writes and reads the points of answers' frames.

    Args:
        folder: the replay's.
    """

    def __init__(self, folder: ReplayOutput) -> None:
        self._folder = folder
        self._packer = PointPacker()

    def write(self, number: int, answer: Answer) -> None:
        """Write the points of an answer's frame, if it has depth and intrinsics.

        Args:
            number: of the answer, from 0.
            answer: with its frame, if there is one.

        Raises:
            OutputError: the file cannot be written.
        """
        cloud = None if answer.frame is None else cloud_of(answer.frame, answer.segments)
        if answer.frame is None or cloud is None:
            return
        # Answers are written by one thread, but by several processes.
        packed, _ = self._packer.pack(cloud, answer.frame.image, organised=True, objects=False)
        assert packed is not None
        path = self._folder.cloud(number)
        try:
            # As plain bytes: NumPy does not keep the padding of structured points.
            np.save(path, np.frombuffer(packed.data, _RAW).reshape(packed.points.shape))
        except OSError as error:
            raise OutputError(f'{path} cannot be written: {error.strerror}.') from error

    def read(self, number: int) -> tuple[Packed, Packed] | None:
        """Return the points of an answer's frame, and those of its objects; None if it has none.

        Raises:
            OutputError: the file is damaged.
        """
        path = self._folder.cloud(number)
        if not path.exists():
            return None
        try:
            raw = np.load(path)
        except (OSError, ValueError) as error:
            raise OutputError(f'{path} is damaged; --restart creates it again.') from error
        own = raw[raw.view(POINT)['object'] > 0][None]
        return _packed(raw), _packed(own)


def _packed(raw: NDArray[np.void]) -> Packed:
    return Packed(array('B', raw.tobytes()), raw.view(POINT))
