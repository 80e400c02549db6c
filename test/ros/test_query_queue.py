"""Every pending query gets exactly one answer, whatever the policy, the order and the threads."""

from collections import Counter
import gc
from random import Random
import threading
import weakref

import pytest

from segzero_ros.ros.perception.query_queue import PendingQuery, QueryPolicy, QueryQueue
from segzero_ros.types import Answer, Query, Status

POLICIES = list(QueryPolicy)


class QueueHarness:
    """A queue and the answers it delivered."""

    def __init__(self, *args, **kwargs):
        self.queue = QueryQueue(*args, **kwargs)
        self.answers: list[Answer] = []
        self._number = 0
        self._lock = threading.Lock()

    def pending(self, **options) -> PendingQuery:
        with self._lock:
            self._number += 1
            query = Query(f'find thing {self._number}', f'q{self._number}')
        return PendingQuery(query, self.answers.append, **options)

    def submit(self, **options) -> PendingQuery:
        pending = self.pending(**options)
        self.queue.submit(pending)
        return pending

    def finish(self, pending: PendingQuery) -> None:
        """Answer a popped query, as the worker does."""
        status = Status.CANCELED if pending.cancelled() else Status.OK
        self.queue.finish(pending)
        pending.answer(Answer(pending.query, status, pending.cancel_reason))

    def answer_all(self) -> None:
        while pending := self.queue.pop():
            self.finish(pending)

    def statuses(self) -> dict[str, Status]:
        return {answer.query.id: answer.status for answer in self.answers}

    def message(self, pending: PendingQuery) -> str:
        return next(a.message for a in self.answers if a.query.id == pending.query.id)


def test_an_answered_query_and_its_picture_are_freed_without_the_collector():
    delivered = []

    def asked() -> weakref.ref[PendingQuery]:
        # Whoever delivers knows the pending query, as in the node.
        pending = PendingQuery(
            Query('find it', 'q'), lambda answer: delivered.append(pending.query)
        )
        assert pending.answer(Answer(pending.query, Status.OK))
        return weakref.ref(pending)

    gc.disable()
    try:
        assert asked()() is None
    finally:
        gc.enable()
    assert len(delivered) == 1


def test_the_queue_keeps_the_order():
    harness = QueueHarness(QueryPolicy.QUEUE, 10)
    for _ in range(5):
        harness.submit()
    harness.answer_all()
    assert [answer.query.id for answer in harness.answers] == ['q1', 'q2', 'q3', 'q4', 'q5']
    assert {answer.status for answer in harness.answers} == {Status.OK}


@pytest.mark.parametrize('policy', POLICIES)
@pytest.mark.parametrize('taken', [True, False])
def test_a_low_priority_query_is_cancelled_under_every_policy(policy, taken):
    harness = QueueHarness(policy, 0)
    low = harness.submit(low_priority=True)
    if taken:
        harness.queue.pop()
    asked = harness.submit()
    assert low.cancelled()
    if taken:
        harness.finish(low)
    harness.answer_all()
    assert harness.statuses() == {'q1': Status.CANCELED, 'q2': Status.OK}
    assert "cancelled by a client's query" in harness.message(low)
    assert harness.message(asked) == ''


def test_a_full_queue_rejects_and_reports_how_many_wait():
    harness = QueueHarness(QueryPolicy.QUEUE, 2)
    harness.submit()
    current = harness.queue.pop()
    harness.submit()
    harness.submit()
    refused = harness.submit()
    assert harness.statuses() == {'q4': Status.REJECTED}
    assert '2 queries are waiting' in harness.message(refused)
    harness.finish(current)
    harness.answer_all()
    assert Counter(harness.statuses().values()) == {Status.OK: 3, Status.REJECTED: 1}


@pytest.mark.parametrize('taken', [True, False])
def test_a_queue_of_none_takes_one_query_at_a_time(taken):
    harness = QueueHarness(QueryPolicy.QUEUE, 0)
    first = harness.submit()
    if taken:
        assert harness.queue.pop() is first
    harness.submit()
    assert harness.statuses() == {'q2': Status.REJECTED}


@pytest.mark.parametrize('taken', [True, False])
def test_reject_names_the_query_it_is_busy_with(taken):
    harness = QueueHarness(QueryPolicy.REJECT)
    first = harness.submit()
    if taken:
        assert harness.queue.pop() is first
    refused = harness.submit()
    assert harness.statuses() == {'q2': Status.REJECTED}
    assert 'q1' in harness.message(refused)
    assert 'find thing 1' in harness.message(refused)


def test_reject_takes_the_next_query_as_soon_as_the_last_is_done():
    harness = QueueHarness(QueryPolicy.REJECT)
    first = harness.submit()
    harness.queue.pop()
    harness.queue.finish(first)
    harness.submit()
    assert harness.queue.pop() is not None


def test_a_newer_query_replaces_the_waiting_and_stops_the_current_one():
    harness = QueueHarness(QueryPolicy.PREEMPT)
    harness.submit()
    current = harness.queue.pop()
    waiting = harness.submit()
    newest = harness.submit()
    assert harness.statuses() == {'q2': Status.CANCELED}
    assert 'Replaced by query q3' in harness.message(waiting)
    assert current.cancelled()
    harness.finish(current)
    # The one that stopped it first is the one that it names.
    assert 'Replaced by query q2' in harness.message(current)
    assert harness.queue.pop() is newest


def test_cancelling_a_waiting_query_answers_it_at_once_and_leaves_the_others():
    harness = QueueHarness(QueryPolicy.QUEUE, 5)
    harness.submit()
    current = harness.queue.pop()
    waiting = harness.submit()
    harness.submit()
    harness.queue.cancel(waiting, 'no longer wanted')
    assert harness.statuses() == {'q2': Status.CANCELED}
    assert harness.message(waiting) == 'no longer wanted'
    assert not current.cancelled()


def test_cancelling_the_current_query_tells_the_models_and_answers_when_they_stopped():
    harness = QueueHarness()
    pending = harness.submit()
    harness.queue.pop()
    harness.queue.cancel(pending, 'enough')
    assert pending.cancelled()
    assert not harness.answers
    harness.finish(pending)
    assert harness.message(pending) == 'enough'


def test_cancelling_an_answered_query_changes_nothing():
    harness = QueueHarness()
    pending = harness.submit()
    harness.answer_all()
    harness.queue.cancel(pending, 'too late')
    assert harness.statuses() == {'q1': Status.OK}
    assert len(harness.answers) == 1


def test_closing_answers_what_is_here_and_refuses_what_comes():
    harness = QueueHarness(QueryPolicy.QUEUE, 5)
    harness.submit()
    current = harness.queue.pop()
    harness.submit()
    harness.queue.close('closed for today', 'everybody out')
    late = harness.submit()
    assert current.cancelled()
    assert harness.statuses() == {'q2': Status.CANCELED, 'q3': Status.REJECTED}
    assert harness.message(late) == 'closed for today'
    harness.finish(current)
    assert harness.message(current) == 'everybody out'
    harness.queue.open()
    assert harness.queue.submit(harness.pending())


def test_a_query_is_answered_once_even_if_two_try():
    answers = []
    pending = PendingQuery(Query('x', '1'), answers.append)
    assert pending.refuse(Status.CANCELED, 'first')
    assert not pending.refuse(Status.ERROR, 'second')
    assert [answer.message for answer in answers] == ['first']


def test_the_first_reason_to_cancel_counts():
    pending = PendingQuery(Query('x', '1'), lambda answer: None)
    pending.cancel('first')
    pending.cancel('second')
    assert pending.cancel_reason == 'first'


@pytest.mark.parametrize('policy', POLICIES)
def test_a_burst_from_several_threads_is_answered_exactly_once_each(policy):
    """Four clients ask and cancel, one worker works, the queue closes in the middle of it."""
    harness = QueueHarness(policy, 7)
    done = threading.Event()
    random = Random(policy.value)

    def work():
        while not done.is_set() or harness.queue.waiting:
            pending = harness.queue.pop()
            if pending is not None:
                harness.finish(pending)

    def ask(count):
        for _ in range(count):
            pending = harness.submit()
            if random.random() < 0.2:
                harness.queue.cancel(pending, 'changed my mind')

    worker = threading.Thread(target=work)
    clients = [threading.Thread(target=ask, args=(50,)) for _ in range(4)]
    for thread in (worker, *clients):
        thread.start()
    clients[0].join()
    harness.queue.close('closed', 'closing')
    for client in clients:
        client.join()
    done.set()
    worker.join(20)
    assert not worker.is_alive()
    counts = Counter(answer.query.id for answer in harness.answers)
    assert len(counts) == 200
    assert set(counts.values()) == {1}
    silent = [a for a in harness.answers if a.status is not Status.OK and not a.message]
    assert not silent
