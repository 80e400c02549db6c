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


class Office:
    """A queue, and what everybody who asked there was answered."""

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
        """Do what the worker does with a pending query it took."""
        status = Status.CANCELED if pending.cancelled() else Status.OK
        self.queue.done(pending)
        pending.answer(Answer(pending.query, status, pending.cancel_reason))

    def work_off(self) -> None:
        while pending := self.queue.take():
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
    office = Office(QueryPolicy.QUEUE, 10)
    for _ in range(5):
        office.submit()
    office.work_off()
    assert [answer.query.id for answer in office.answers] == ['q1', 'q2', 'q3', 'q4', 'q5']
    assert {answer.status for answer in office.answers} == {Status.OK}


@pytest.mark.parametrize('policy', POLICIES)
@pytest.mark.parametrize('taken', [True, False])
def test_what_yields_makes_way_under_every_policy(policy, taken):
    office = Office(policy, 0)
    yielding = office.submit(low_priority=True)
    if taken:
        office.queue.take()
    asked = office.submit()
    assert yielding.cancelled()
    if taken:
        office.finish(yielding)
    office.work_off()
    assert office.statuses() == {'q1': Status.CANCELED, 'q2': Status.OK}
    assert 'made way' in office.message(yielding)
    assert office.message(asked) == ''


def test_the_queue_turns_away_what_does_not_fit_and_says_how_many_wait():
    office = Office(QueryPolicy.QUEUE, 2)
    office.submit()
    current = office.queue.take()
    office.submit()
    office.submit()
    refused = office.submit()
    assert office.statuses() == {'q4': Status.REJECTED}
    assert '2 queries wait already' in office.message(refused)
    office.finish(current)
    office.work_off()
    assert Counter(office.statuses().values()) == {Status.OK: 3, Status.REJECTED: 1}


@pytest.mark.parametrize('taken', [True, False])
def test_a_queue_of_none_takes_one_query_at_a_time(taken):
    office = Office(QueryPolicy.QUEUE, 0)
    first = office.submit()
    if taken:
        assert office.queue.take() is first
    office.submit()
    assert office.statuses() == {'q2': Status.REJECTED}


@pytest.mark.parametrize('taken', [True, False])
def test_reject_names_the_query_it_is_busy_with(taken):
    office = Office(QueryPolicy.REJECT)
    first = office.submit()
    if taken:
        assert office.queue.take() is first
    refused = office.submit()
    assert office.statuses() == {'q2': Status.REJECTED}
    assert 'q1' in office.message(refused)
    assert 'find thing 1' in office.message(refused)


def test_reject_takes_the_next_query_as_soon_as_the_last_is_done():
    office = Office(QueryPolicy.REJECT)
    first = office.submit()
    office.queue.take()
    office.queue.done(first)
    office.submit()
    assert office.queue.take() is not None


def test_a_newer_query_replaces_the_waiting_and_stops_the_current_one():
    office = Office(QueryPolicy.PREEMPT)
    office.submit()
    current = office.queue.take()
    waiting = office.submit()
    newest = office.submit()
    assert office.statuses() == {'q2': Status.CANCELED}
    assert 'Replaced by query q3' in office.message(waiting)
    assert current.cancelled()
    office.finish(current)
    # The one that stopped it first is the one that it names.
    assert 'Replaced by query q2' in office.message(current)
    assert office.queue.take() is newest


def test_cancelling_a_waiting_query_answers_it_at_once_and_leaves_the_others():
    office = Office(QueryPolicy.QUEUE, 5)
    office.submit()
    current = office.queue.take()
    waiting = office.submit()
    office.submit()
    office.queue.cancel(waiting, 'no longer wanted')
    assert office.statuses() == {'q2': Status.CANCELED}
    assert office.message(waiting) == 'no longer wanted'
    assert not current.cancelled()


def test_cancelling_the_current_query_tells_the_models_and_answers_when_they_stopped():
    office = Office()
    pending = office.submit()
    office.queue.take()
    office.queue.cancel(pending, 'enough')
    assert pending.cancelled()
    assert not office.answers
    office.finish(pending)
    assert office.message(pending) == 'enough'


def test_cancelling_an_answered_query_changes_nothing():
    office = Office()
    pending = office.submit()
    office.work_off()
    office.queue.cancel(pending, 'too late')
    assert office.statuses() == {'q1': Status.OK}
    assert len(office.answers) == 1


def test_closing_answers_what_is_here_and_refuses_what_comes():
    office = Office(QueryPolicy.QUEUE, 5)
    office.submit()
    current = office.queue.take()
    office.submit()
    office.queue.close('closed for today', 'everybody out')
    late = office.submit()
    assert current.cancelled()
    assert office.statuses() == {'q2': Status.CANCELED, 'q3': Status.REJECTED}
    assert office.message(late) == 'closed for today'
    office.finish(current)
    assert office.message(current) == 'everybody out'
    office.queue.open()
    assert office.queue.submit(office.pending())


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
    office = Office(policy, 7)
    done = threading.Event()
    random = Random(policy.value)

    def work():
        while not done.is_set() or office.queue.waiting:
            pending = office.queue.take()
            if pending is not None:
                office.finish(pending)

    def ask(count):
        for _ in range(count):
            pending = office.submit()
            if random.random() < 0.2:
                office.queue.cancel(pending, 'changed my mind')

    worker = threading.Thread(target=work)
    clients = [threading.Thread(target=ask, args=(50,)) for _ in range(4)]
    for thread in (worker, *clients):
        thread.start()
    clients[0].join()
    office.queue.close('closed', 'closing')
    for client in clients:
        client.join()
    done.set()
    worker.join(20)
    assert not worker.is_alive()
    counts = Counter(answer.query.id for answer in office.answers)
    assert len(counts) == 200
    assert set(counts.values()) == {1}
    silent = [a for a in office.answers if a.status is not Status.OK and not a.message]
    assert not silent
