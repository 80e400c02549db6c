"""Several bags with ground truth, as one data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from segzero_ros.evaluation.bag_truth import BagWithTruth
from segzero_ros.evaluation.samples import BAG, DataError, Sample
from segzero_ros.replay.bag_folder import find_bags


class BagsWithTruth:
    """Samples of several bags, one bag after the other.

    Attributes:
        starts: the first index of each bag.
        bags: the name of each bag.
    """

    def __init__(self, paths: Sequence[Path], truth: Path, image: str = '') -> None:
        """Read the truths.

        Args:
            paths: the bags, and folders that contain bags.
            truth: folder with the accepted answers about each bag, `<name>.jsonl`.
            image: the bags' image topic; empty to detect it.

        Raises:
            DataError: a truth is missing, or cannot be read.
            NoBags: there are none, or some that cannot be told apart.
        """
        named = find_bags(paths)
        files = [truth / f'{name}.jsonl' for name, _ in named]
        if missing := [str(file) for file in files if not file.is_file()]:
            raise DataError(
                f'The accepted answers {", ".join(missing)} are missing: segzero replay with the '
                f'same bags and --accept {truth} writes them.'
            )
        self.bags = [name for name, _ in named]
        self._parts = [
            BagWithTruth(bag.path, file, image) for bag, file in zip(named, files, strict=True)
        ]
        *self.starts, self._total = accumulate(map(len, self._parts), initial=0)

    @property
    def name(self) -> str:
        """The number of bags, and the names of the first and the last."""
        return f'{len(self.bags)} bags, {self.bags[0]} to {self.bags[-1]}'

    def __len__(self) -> int:
        return self._total

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices, in one pass over each bag.

        Raises:
            DataError: a bag cannot be read, or lacks an image of the truth.
        """
        for name, first, part in zip(self.bags, self.starts, self._parts, strict=True):
            low = max(indices.start, first)
            high = min(indices.stop, first + len(part))
            if low >= high:
                continue
            for index, sample in part.read(range(low - first, high - first)):
                whole = first + index
                yield whole, replace(sample, ann_id=str(whole), group=(f'{BAG}{name}',))
