"""A bag with ground truth: answers that a person has accepted or corrected.

The truth has the layout of a replay's `results.jsonl`: image, query and masks.
`segzero replay BAG --accept FILE` writes it; a line with the status NOT_FOUND has no target.
"""

from __future__ import annotations

from collections.abc import Iterator
import logging
from pathlib import Path

import numpy as np

from segzero_ros.conversions.text import read_query
from segzero_ros.evaluation.samples import DataError, Sample
from segzero_ros.replay.bag import BagError, BagReader
from segzero_ros.replay.bag_frames import BagFrames
from segzero_ros.replay.query_file import QueryPlan, TimedQuery
from segzero_ros.replay.records import Record
from segzero_ros.replay.regression import NoGolden, read_golden
from segzero_ros.replay.schedule import QuerySchedule, ScheduleLimits
from segzero_ros.replay.topics import find_topics, NONE, Topics
from segzero_ros.types import BadImage, Frame, Mask, S_TO_NS, Status

# Maximum time between an image and its depth: the node's default.
_MAX_DEPTH_OFFSET_NS = S_TO_NS // 20
_logger = logging.getLogger(__name__)
# Accepted queries of any length are valid.
_MAX_QUERY_LENGTH = 1_000_000
_LIMITS = ScheduleLimits(
    _MAX_DEPTH_OFFSET_NS, max_image_age_ns=0, max_query_length=_MAX_QUERY_LENGTH
)


class BagWithTruth:
    """Samples of a bag, ordered by image stamp."""

    def __init__(self, bag: Path, truth: Path, image: str = '') -> None:
        """Read the truth.

        Args:
            bag: a bag of ROS 1 or 2, SQLite3 or MCAP.
            truth: file with the accepted answers.
            image: the image topic; empty to detect it.

        Raises:
                DataError: the truth cannot be read, or has no answer about an image.
        """
        self.name = bag.stem
        self._path, self._truth, self._image = bag, truth, image
        self._warned: set[str] = set()
        try:
            records = list(read_golden(truth))
        except NoGolden as error:
            raise DataError(str(error)) from error
        valid = (Status.OK, Status.NOT_FOUND)
        usable = [one for one in records if one.answer.status in valid and one.stamp_ns]
        self._records = sorted(usable, key=lambda record: record.stamp_ns or 0)
        if not self._records:
            raise DataError(f'{truth} has no answer about an image with status OK or NOT_FOUND.')

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices, in one pass over the bag.

        Raises:
            DataError: the bag cannot be read, or lacks an image of the truth.
        """
        wanted = {index: self._records[index] for index in indices}
        asks = tuple(
            TimedQuery(_text(record), id=str(index), stamp_ns=record.stamp_ns)
            for index, record in wanted.items()
        )
        try:
            with BagReader(self._path, salvage=True) as bag:
                topics = find_topics(bag, self._image, queries=NONE)
                self._warn(bag, topics)
                frames = BagFrames(bag, topics)
                jobs = QuerySchedule(
                    topics, QueryPlan(asks=asks), _LIMITS, bag.span_ns[0], lambda _: TimedQuery('')
                )
                for job in jobs.run(bag.messages(jobs.topics)):
                    if job.rgbd is None:
                        raise DataError(f'{self._truth}: {job.no_image or job.error}')
                    index = int(job.query.id)
                    yield index, self._sample(wanted[index], frames.frame(job.rgbd)[0], index)
        except (BagError, BadImage) as error:
            raise DataError(f'{self._path}: {error}') from error

    def _warn(self, bag: BagReader, topics: Topics) -> None:
        """Log each warning about the bag once."""
        for warning in (*filter(None, [bag.damage]), *topics.warnings):
            if warning not in self._warned:
                self._warned.add(warning)
                _logger.warning('%s', warning)

    def _sample(self, record: Record, frame: Frame, index: int) -> Sample:
        size = (frame.height, frame.width)
        if record.size != size:
            raise DataError(
                f'{self._truth}: the answer to {record.answer.query.text!r} is about an image of '
                f'{record.size[1]}x{record.size[0]} pixels; in the bag it has {size[1]}x{size[0]}.'
            )
        masks = [segment.full_mask(*size) for segment in record.answer.segments]
        return Sample(
            image=frame.image,
            text=record.answer.query.text,
            mask=_union(masks, size),
            masks=tuple(masks),
            boxes=tuple(_box(segment.mask_roi) for segment in record.answer.segments),
            count=len(masks),
            image_id=str(record.stamp_ns),
            ann_id=str(index),
            depth=frame.depth,
            intrinsics=frame.intrinsics,
        )


def _text(record: Record) -> str:
    text, error = read_query(record.answer.query.text, _MAX_QUERY_LENGTH)
    if error:
        raise DataError(f'The truth contains an invalid query: {error}')
    return text


def _union(masks: list[Mask], size: tuple[int, int]) -> Mask:
    union = np.zeros(size, np.bool_)
    for mask in masks:
        union |= mask
    return union


def _box(roi: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    x, y, width, height = roi
    return float(x), float(y), float(x + width), float(y + height)
