"""Ids of objects that stay with their labels from answer to answer, for a standing query.

Costmap layers know a class by its value in a mask, so "grass" must not be 1 in one answer and 2 in
the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import logging
import threading

from segzero_ros.conversions.label_images import MAX_IDS
from segzero_ros.segments import count_up

_logger = logging.getLogger(__name__)


class StableIds:
    """Gives the first object with a label the same id in every answer, the second one too, etc.

    May be used from any thread.

    Attributes:
        enabled: otherwise the ids of every answer count from 1.
        encoding: of the label image, which limits the ids.
    """

    def __init__(self) -> None:
        self.enabled = False
        self.encoding = 'mono16'
        self._ids: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()

    def reset(self) -> None:
        """Forget all labels."""
        with self._lock:
            self._ids.clear()

    def number(self, labels: Sequence[str]) -> Sequence[int]:
        """Return the ids of an answer's objects, all different.

        Args:
            labels: of the objects, in the answer's order.
        """
        if not self.enabled:
            return count_up(labels)
        seen: Counter[str] = Counter()
        keys = []
        for label in labels:
            keys.append((label, seen[label]))
            seen[label] += 1
        with self._lock:
            new = [key for key in keys if key not in self._ids]
            if self._ids and len(self._ids) + len(new) > MAX_IDS[self.encoding]:
                _logger.warning(
                    'The ids start over: the labels so far do not leave enough ids for a label '
                    'image of %s.',
                    self.encoding,
                )
                self._ids.clear()
                new = keys
            for key in new:
                self._ids[key] = len(self._ids) + 1
            return [self._ids[key] for key in keys]
