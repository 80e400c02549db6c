"""Run shards: on any backend, with a killed worker's shard done again.

A shard that fails does not stop the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
import logging

from segzero_ros.sharding.base import Backend, Died, Failed, Finished, Outcome, Progress, ShardTask

# A shard whose workers are killed this often fails: it may be what kills them.
MAX_ATTEMPTS = 3
_logger = logging.getLogger(__name__)

# Called with the number of a shard, from 0, and what it reports.
OnProgress = Callable[[int, Progress], None]
# Called with the number of a shard, from 0, and how it ended.
OnOutcome = Callable[[int, Outcome], None]


def run_shards(
    shards: Sequence[ShardTask],
    backend: Backend,
    on_progress: OnProgress = lambda *_: None,
    on_outcome: OnOutcome = lambda *_: None,
) -> list[Outcome]:
    """Run shards and return how each ended, in their order.

    Args:
        shards: the shards.
        backend: runs them; closed at the end.
        on_progress: called with what each shard reports.
        on_outcome: called when a shard has ended.

    Raises:
        ShardError: the backend cannot run any.
    """
    waiting = deque(range(len(shards)))
    running: set[int] = set()
    attempts = [0] * len(shards)
    outcomes: dict[int, Outcome] = {}

    def end(number: int, outcome: Outcome) -> None:
        outcomes[number] = outcome
        on_outcome(number, outcome)

    with closing(backend):
        while waiting or running:
            while waiting and len(running) < backend.slots:
                number = waiting.popleft()
                attempts[number] += 1
                running.add(number)
                backend.submit(number, shards[number])
            for number, event in backend.wait():
                if isinstance(event, Progress):
                    on_progress(number, event)
                    continue
                running.discard(number)
                if isinstance(event, Died) and attempts[number] < MAX_ATTEMPTS:
                    note = f'The worker {event.reason}; its work is done again.'
                    on_progress(number, Progress(note=note))
                    waiting.append(number)
                else:
                    end(number, _outcome(shards[number], event))
    return [outcomes[number] for number in range(len(shards))]


def _outcome(shard: ShardTask, event: Finished | Failed | Died) -> Outcome:
    if isinstance(event, Finished):
        return Outcome(shard, event.result)
    if isinstance(event, Died):
        return Outcome(
            shard,
            error=f'{MAX_ATTEMPTS} workers were lost with it; the last one {event.reason}. Check '
            'that there is memory enough, and run the same command again to resume.',
        )
    if event.trace:
        _logger.error('%s', event.trace)
    return Outcome(shard, error=event.reason)
