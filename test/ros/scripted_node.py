"""The real node with a reasoner that does what the query tells it, as models do too rarely.

The query is the script: `count to 20` writes twenty words, `count for ever` writes until it is
cancelled, `get stuck` hears nothing any more, `stammer` writes what is no text, `provoke` what a
terminal would obey, `collect` how much Python's collector leaves alone, `take blocks` where the C
library has memory from; `explode`, `babble`, `dawdle` and `run out of memory` fail;
`seven` counts wrong; `name cup, plate` finds things of these names side by side;
`quit`, `interrupt` and `close the generator` raise what ends programs and threads,
`write on regardless` writes for ever whatever it is told, `many` finds a hundred objects that take
their time; `segment for ever`, `quit later` and `run out of memory later` are the segmenter's,
`hang while followed`, `quit while followed` and `hang when let go` the tracker's; anything else
finds one object in the middle of the image. An image of the frame `hang in the encoder` or `quit
in the encoder` does that. `reasoner_model` scripts the loading.
"""

from __future__ import annotations

from collections.abc import Sequence
import ctypes
import gc
from itertools import count
import sys
import threading

from action_msgs.msg import GoalStatus
import numpy as np
from rclpy.action.server import ServerGoalHandle

from segzero_ros.cancellation import Check
from segzero_ros.loading import ReasonerOptions, SegmenterOptions
from segzero_ros.loading_steps import loading_step
from segzero_ros.pipeline import Pipeline
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText
from segzero_ros.ros.perception import model_loader, node
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.types import (
    Cancelled,
    Frame,
    GroundedObject,
    Grounding,
    MalformedAnswer,
    Query,
    ReasonerTimeout,
    ReasonerUnavailable,
    Segment,
    Task,
    Track,
)

WORD_PERIOD = 0.01
# Seconds for one of `many` objects.
OBJECT_PERIOD = 0.1
ENDING = {
    'quit': SystemExit(3),
    'interrupt': KeyboardInterrupt(),
    'close the generator': GeneratorExit('no more'),
}


def hang() -> None:
    """Come to no end, and say so."""
    sys.stdout.write('This hangs.\n')
    sys.stdout.flush()
    threading.Event().wait()


class ScriptedReasoner:
    """Does what the query says."""

    name = 'scripted'
    leaves_processors_free = False
    reads_marks = False

    def reason(
        self,
        frame: Frame,
        query: Query,
        on_text: OnText = ignore,
        cancelled: IsCancelled = never,
        on_object: OnObject = ignore,
    ) -> Grounding:
        """Follow the script in the query."""
        words = query.text.split()
        if words[:2] == ['count', 'to']:
            self._count(range(int(words[2])), on_text, cancelled)
        elif query.text == 'count for ever':
            self._count(count(), on_text, cancelled)
        elif query.text == 'get stuck':
            threading.Event().wait()
        elif query.text == 'stammer':
            on_text('half a smile \ud83d, nothing \0 and the end')
        elif query.text == 'provoke':
            on_text('\x1b]0;owned\x07\x9b31m[bold]')
            box = (1.0, 1.0, 9.0, 9.0)
            return Grounding('\x1b[2J', (GroundedObject(box, label='\x1b[8mcup'),), '\x1b[2J')
        elif query.text == 'collect':
            said = f'{gc.get_freeze_count()} passed over'
            return Grounding(said, (GroundedObject((1.0, 1.0, 9.0, 9.0)),))
        elif query.text == 'take blocks':
            said = f'{blocks_of_their_own()} of 20 were mapped'
            return Grounding(said, (GroundedObject((1.0, 1.0, 9.0, 9.0)),))
        elif query.text == 'run out of memory':
            raise out_of_memory()
        elif query.text in ENDING:
            on_text('so far so good')
            raise ENDING[query.text]
        elif query.text == 'write on regardless':
            self._count(count(), lambda piece: on_text(f'old{piece}'), never)
        elif query.text == 'many':
            box = (1.0, 1.0, 9.0, 9.0)
            return Grounding('many', (GroundedObject(box, label='takes its time'),) * 100)
        elif query.text == 'explode':
            raise RuntimeError('exploded as told')
        elif query.text == 'babble':
            raise MalformedAnswer('no box in it', 'blah blah')
        elif query.text == 'dawdle':
            raise ReasonerTimeout('took longer than it may')
        if query.task is Task.ANSWER:
            on_text('It is red.')
            return Grounding('', (), 'It is red.', 3, answer='It is red.')
        if query.task is Task.POINT:
            middle = frame.width / 2, frame.height / 2
            return Grounding('done', (GroundedObject(None, (middle,), query.text),))
        if query.text == 'seven':
            box = (1.0, 1.0, 9.0, 9.0)
            return Grounding('done', (GroundedObject(box), GroundedObject(box)), count=7)
        if words[:1] == ['name']:
            names = [name.strip() for name in query.text.removeprefix('name').split(',')]
            width, top, bottom = frame.width / len(names), frame.height / 4, frame.height / 2
            found = (
                GroundedObject((index * width, top, (index + 0.5) * width, bottom), label=name)
                for index, name in enumerate(names)
            )
            return Grounding('done', tuple(found))
        box = (frame.width / 4, frame.height / 4, 3 * frame.width / 4, 3 * frame.height / 4)
        return Grounding('done', (GroundedObject(box, label=query.text),), generated_tokens=1)

    def _count(self, numbers, on_text: OnText, cancelled: IsCancelled) -> None:
        pace = threading.Event()
        for number in numbers:
            if cancelled():
                raise Cancelled(f'counted to {number}')
            on_text(f'{number} ')
            pace.wait(WORD_PERIOD)

    def close(self) -> None:
        """Say what the collector would leave alone: nothing, or a model's cycles would stay."""
        sys.stdout.write(f'Closed with {gc.get_freeze_count()} passed over.\n')
        sys.stdout.flush()


class _Account(ctypes.Structure):
    """What the C library counts; `hblks` are blocks that it had from the system one by one."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ('arena', 'ordblks', 'smblks', 'hblks')),
        ('others', 6 * ctypes.c_size_t),
    ]


def blocks_of_their_own() -> int:
    """Take 20 blocks of nearly a megabyte, as torch's results are; return how many were mapped."""
    import torch  # noqa: F401 (what the node looks for)

    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Account
    before = library.mallinfo2().hblks
    blocks = [bytearray(2**20 - 4096) for _ in range(20)]
    return int(library.mallinfo2().hblks - before) if blocks else 0


def out_of_memory() -> Exception:
    """Return what torch raises on a GPU that is full."""
    import torch

    return torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')


class BoxSegmenter:
    """Takes the whole box for the object."""

    name = 'boxes'
    takes_all_processors = False

    def encode(self, frame: Frame, check: Check | None = None) -> tuple[int, int]:
        """Remember the size."""
        if frame.frame_id == 'hang in the encoder':
            hang()
        if frame.frame_id == 'quit in the encoder':
            raise SystemExit(4)
        return frame.height, frame.width

    def segment(
        self, encoding: tuple[int, int], grounding: Grounding, check: Check | None = None
    ) -> list[SegmentedMask]:
        """Fill each box."""
        masks = []
        for found in grounding.objects:
            if check is not None:
                check()
            if found.label == 'takes its time':
                threading.Event().wait(OBJECT_PERIOD)
            if found.label == 'segment for ever':
                threading.Event().wait()
            if found.label == 'quit later':
                raise SystemExit(5)
            if found.label == 'run out of memory later':
                raise out_of_memory()
            mask = np.zeros(encoding, np.bool_)
            x1, y1, x2, y2 = (int(value) for value in found.box)
            mask[y1:y2, x1:x2] = True
            masks.append(SegmentedMask(mask, 1.0))
        return masks

    def close(self) -> None:
        """Nothing to free."""


class ScriptedTracker:
    """Finds everything where it was, unless the first object's label says otherwise."""

    name = 'scripted'

    def __init__(self) -> None:
        self._segments: Sequence[Segment] = ()
        self._script = ''

    def start(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Remember the objects."""
        self._segments, self._script = segments, segments[0].label

    def step(self, frame: Frame) -> list[Track]:
        """Return the objects as they were."""
        if self._script == 'hang while followed':
            hang()
        if self._script == 'quit while followed':
            raise SystemExit(6)
        return [Track(segment, lost=False) for segment in self._segments]

    def close(self) -> None:
        """Nothing to free."""
        if self._script == 'hang when let go':
            hang()


def load(reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> Pipeline:
    """Load what `reasoner_model` says: `missing` and `broken` fail, `slow` takes its time."""
    if reasoner.model == 'missing':
        raise ReasonerUnavailable('The weights of `missing` are not on this machine.')
    if reasoner.model == 'broken':
        raise RuntimeError('the checkpoint is cut off')
    if reasoner.model == 'quitter':
        raise SystemExit(3)
    if reasoner.model == 'slow':
        with loading_step('reading the weights of slow (16.6 GB)'):
            threading.Event().wait(4)
    return Pipeline(ScriptedReasoner(), BoxSegmenter(), reasoner.time_limit)


def watch_feedback() -> None:
    """Say when feedback is sent of a goal that is not executing: later releases drop it."""
    publish = ServerGoalHandle.publish_feedback

    def watched(goal: ServerGoalHandle, feedback: object) -> None:
        if goal.status != GoalStatus.STATUS_EXECUTING:
            sys.stdout.write(f'Feedback while the goal is {goal.status}.\n')
            sys.stdout.flush()
        publish(goal, feedback)

    ServerGoalHandle.publish_feedback = watched


if __name__ == '__main__':
    watch_feedback()
    model_loader.load_tracker = lambda *_: ScriptedTracker()
    raise SystemExit(node.main(load=load))
