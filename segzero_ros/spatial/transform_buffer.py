"""Buffer of the transforms between frames, as tf2's BufferCore: for where tf2 is not installed.

Frames form trees: each has one parent at a time. Between two transforms of a frame, translations
are interpolated linearly and rotations spherically; nothing is extrapolated.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from segzero_ros.rotations import normalised
from segzero_ros.spatial.transforms import IDENTITY, StampedTransform, Transform
from segzero_ros.types import S_TO_NS, SegZeroError

# How long transforms are kept; as tf2 does.
KEEP_NS = 10 * S_TO_NS
# Later than every stamp: the time that static transforms reach.
_ANY_TIME = 2**63
# Older ones are dropped together, at most this often, in the transforms' own time.
_PRUNE_NS = S_TO_NS


class NoTransform(SegZeroError):
    """There is no transform between two frames.

    Attributes:
        late: whether the transforms that arrived so far are older than the wanted time, so that
            waiting helps.
    """

    def __init__(self, reason: str, *, late: bool = False) -> None:
        super().__init__(reason)
        self.late = late


class _Edge(NamedTuple):
    """A frame's transform into its parent; the stamp of a static one is None."""

    parent: str
    transform: Transform
    stamp_ns: int | None


class _History:
    """A frame's transforms into its parents, by time."""

    def __init__(self) -> None:
        self.stamps: list[int] = []
        self.edges: list[_Edge] = []

    def add(self, stamp_ns: int, edge: _Edge) -> None:
        """Insert a transform; one of the same time is replaced."""
        stamps = self.stamps
        if not stamps or stamp_ns > stamps[-1]:
            stamps.append(stamp_ns)
            self.edges.append(edge)
            if stamp_ns - stamps[0] > KEEP_NS + _PRUNE_NS:
                old = bisect_left(stamps, stamp_ns - KEEP_NS)
                del stamps[:old], self.edges[:old]
        elif stamp_ns < stamps[-1] - KEEP_NS:
            # A recording that was started again.
            self.stamps, self.edges = [stamp_ns], [edge]
        else:
            index = bisect_left(stamps, stamp_ns)
            if stamps[index] == stamp_ns:
                self.edges[index] = edge
            else:
                stamps.insert(index, stamp_ns)
                self.edges.insert(index, edge)

    def at(self, child: str, stamp_ns: int | None) -> _Edge:
        """Return the transform at a time; None for the newest.

        Raises:
            NoTransform: all are older, or all are newer.
        """
        stamps, edges = self.stamps, self.edges
        if stamp_ns is None or stamp_ns == stamps[-1]:
            return edges[-1]
        if stamp_ns > stamps[-1]:
            gap = (stamp_ns - stamps[-1]) / S_TO_NS
            raise NoTransform(
                f'the newest transform of {child} is {gap:.3f} s older than the image', late=True
            )
        if stamp_ns < stamps[0]:
            gap = (stamps[0] - stamp_ns) / S_TO_NS
            raise NoTransform(
                f'the oldest known transform of {child} is {gap:.3f} s newer than the image'
            )
        after = bisect_right(stamps, stamp_ns)
        before, later = edges[after - 1], edges[after]
        start, end = stamps[after - 1], stamps[after]
        if stamp_ns == start or before.parent != later.parent:
            return before
        share = (stamp_ns - start) / (end - start)
        return before._replace(transform=before.transform.towards(later.transform, share))


class TransformBuffer:
    """Stores transforms and looks up those between any two frames of a tree. Not thread-safe."""

    def __init__(self) -> None:
        self._static: dict[str, _Edge] = {}
        self._histories: dict[str, _History] = {}
        self._known: set[str] = set()

    def add(self, stamped: StampedTransform, *, static: bool) -> None:
        """Store a transform; one that tf2 would refuse is left out.

        Args:
            stamped: the transform.
            static: whether it holds at all times, as those on /tf_static.
        """
        if not stamped.is_valid:
            return
        parent, child, stamp_ns, given = stamped
        transform = Transform(given.translation, normalised(given.rotation))
        self._known.add(parent)
        self._known.add(child)
        if static:
            self._histories.pop(child, None)
            self._static[child] = _Edge(parent, transform, None)
            return
        self._static.pop(child, None)
        history = self._histories.get(child)
        if history is None:
            history = self._histories[child] = _History()
        history.add(stamp_ns, _Edge(parent, transform, stamp_ns))

    def clear(self) -> None:
        """Forget all but the static transforms, because the time has jumped back."""
        self._histories.clear()

    def look_up(self, target: str, source: str, stamp_ns: int) -> Transform:
        """Return the transform of points in the source frame into the target frame.

        Args:
            target: frame to transform into.
            source: frame to transform from.
            stamp_ns: time, nanoseconds; 0 for the newest at which all transforms are known.

        Raises:
            NoTransform: a frame is unknown, the two are not connected, or a transform between
                them is not known at that time.
        """
        for name in (source, target):
            if name not in self._known:
                raise NoTransform(f'no transform of the frame {name} was received')
        at = stamp_ns or self._newest_common(target, source)
        from_source, source_error = self._ancestors(source, at)
        if target in from_source:
            return from_source[target]
        from_target, target_error = self._ancestors(target, at)
        for name, transform in from_target.items():
            if name in from_source:
                return transform.inverse().after(from_source[name])
        raise source_error or target_error or _not_connected(target, source)

    def _edge(self, child: str, stamp_ns: int | None) -> _Edge | None:
        """Return a frame's transform into its parent; None for a root."""
        history = self._histories.get(child)
        return self._static.get(child) if history is None else history.at(child, stamp_ns)

    def _climb(self, frame: str, stamp_ns: int | None) -> Iterator[_Edge]:
        """Yield the transforms from a frame to its root, or to the end of a loop."""
        passed = {frame}
        while (edge := self._edge(frame, stamp_ns)) is not None:
            frame = edge.parent
            if frame in passed:
                return
            passed.add(frame)
            yield edge

    def _ancestors(
        self, frame: str, stamp_ns: int | None
    ) -> tuple[dict[str, Transform], NoTransform | None]:
        """Return the transforms into a frame's ancestors, itself first, and what ended them.

        An error does not matter if the other frame is not beyond it.
        """
        transform = IDENTITY
        found = {frame: transform}
        try:
            for edge in self._climb(frame, stamp_ns):
                transform = edge.transform.after(transform)
                found[edge.parent] = transform
        except NoTransform as error:
            return found, error
        return found, None

    def _newest_common(self, target: str, source: str) -> int | None:
        """Return the newest time that all transforms between two frames reach; None for any."""
        reached = {source: _ANY_TIME}
        newest = _ANY_TIME
        for edge in self._climb(source, None):
            newest = min(newest, edge.stamp_ns or _ANY_TIME)
            reached[edge.parent] = newest
        newest, frame = _ANY_TIME, target
        path = self._climb(target, None)
        while frame not in reached:
            step = next(path, None)
            if step is None:
                raise _not_connected(target, source)
            newest, frame = min(newest, step.stamp_ns or _ANY_TIME), step.parent
        newest = min(newest, reached[frame])
        return None if newest == _ANY_TIME else newest


def _not_connected(target: str, source: str) -> NoTransform:
    return NoTransform(f'no transforms connect the frames {source} and {target}')
