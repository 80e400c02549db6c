"""Every ticket gets exactly one answer, whatever the policy, the order and the threads."""

from collections import Counter
import gc
from random import Random
import threading
import weakref

import pytest

from segzero_ros.ros.desk import Desk, Policy, Ticket
from segzero_ros.types import Answer, Query, Status

POLICIES = list(Policy)


class Office:
    """A desk, and what everybody who asked there was answered."""

    def __init__(self, *args, **kwargs):
        self.desk = Desk(*args, **kwargs)
        self.answers: list[Answer] = []
        self._number = 0
        self._lock = threading.Lock()

    def ticket(self, **options) -> Ticket:
        with self._lock:
            self._number += 1
            query = Query(f'find thing {self._number}', f'q{self._number}')
        return Ticket(query, self.answers.append, **options)

    def hand_in(self, **options) -> Ticket:
        ticket = self.ticket(**options)
        self.desk.hand_in(ticket)
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """Do what the worker does with a ticket it took."""
        status = Status.CANCELED if ticket.cancelled() else Status.OK
        self.desk.done(ticket)
        ticket.answer(Answer(ticket.query, status, ticket.cancel_reason))

    def work_off(self) -> None:
        while ticket := self.desk.take():
            self.finish(ticket)

    def statuses(self) -> dict[str, Status]:
        return {answer.query.id: answer.status for answer in self.answers}

    def message(self, ticket: Ticket) -> str:
        return next(a.message for a in self.answers if a.query.id == ticket.query.id)


def test_an_answered_ticket_and_its_picture_are_freed_without_the_collector():
    delivered = []

    def asked() -> weakref.ref[Ticket]:
        # Whoever delivers knows the ticket, as in the node.
        ticket = Ticket(Query('find it', 'q'), lambda answer: delivered.append(ticket.query))
        assert ticket.answer(Answer(ticket.query, Status.OK))
        return weakref.ref(ticket)

    gc.disable()
    try:
        assert asked()() is None
    finally:
        gc.enable()
    assert len(delivered) == 1


def test_the_queue_keeps_the_order():
    office = Office(Policy.QUEUE, 10)
    for _ in range(5):
        office.hand_in()
    office.work_off()
    assert [answer.query.id for answer in office.answers] == ['q1', 'q2', 'q3', 'q4', 'q5']
    assert {answer.status for answer in office.answers} == {Status.OK}


@pytest.mark.parametrize('policy', POLICIES)
@pytest.mark.parametrize('taken', [True, False])
def test_what_yields_makes_way_under_every_policy(policy, taken):
    office = Office(policy, 0)
    yielding = office.hand_in(yields=True)
    if taken:
        office.desk.take()
    asked = office.hand_in()
    assert yielding.cancelled()
    if taken:
        office.finish(yielding)
    office.work_off()
    assert office.statuses() == {'q1': Status.CANCELED, 'q2': Status.OK}
    assert 'made way' in office.message(yielding)
    assert office.message(asked) == ''


def test_the_queue_turns_away_what_does_not_fit_and_says_how_many_wait():
    office = Office(Policy.QUEUE, 2)
    office.hand_in()
    current = office.desk.take()
    office.hand_in()
    office.hand_in()
    refused = office.hand_in()
    assert office.statuses() == {'q4': Status.REJECTED}
    assert '2 queries wait already' in office.message(refused)
    office.finish(current)
    office.work_off()
    assert Counter(office.statuses().values()) == {Status.OK: 3, Status.REJECTED: 1}


@pytest.mark.parametrize('taken', [True, False])
def test_a_queue_of_none_takes_one_query_at_a_time(taken):
    office = Office(Policy.QUEUE, 0)
    first = office.hand_in()
    if taken:
        assert office.desk.take() is first
    office.hand_in()
    assert office.statuses() == {'q2': Status.REJECTED}


@pytest.mark.parametrize('taken', [True, False])
def test_reject_names_the_query_it_is_busy_with(taken):
    office = Office(Policy.REJECT)
    first = office.hand_in()
    if taken:
        assert office.desk.take() is first
    refused = office.hand_in()
    assert office.statuses() == {'q2': Status.REJECTED}
    assert 'q1' in office.message(refused)
    assert 'find thing 1' in office.message(refused)


def test_reject_takes_the_next_query_as_soon_as_the_last_is_done():
    office = Office(Policy.REJECT)
    first = office.hand_in()
    office.desk.take()
    office.desk.done(first)
    office.hand_in()
    assert office.desk.take() is not None


def test_a_newer_query_replaces_the_waiting_and_stops_the_current_one():
    office = Office(Policy.PREEMPT)
    office.hand_in()
    current = office.desk.take()
    waiting = office.hand_in()
    newest = office.hand_in()
    assert office.statuses() == {'q2': Status.CANCELED}
    assert 'Replaced by query q3' in office.message(waiting)
    assert current.cancelled()
    office.finish(current)
    # The one that stopped it first is the one that it names.
    assert 'Replaced by query q2' in office.message(current)
    assert office.desk.take() is newest


def test_cancelling_a_waiting_query_answers_it_at_once_and_leaves_the_others():
    office = Office(Policy.QUEUE, 5)
    office.hand_in()
    current = office.desk.take()
    waiting = office.hand_in()
    office.hand_in()
    office.desk.cancel(waiting, 'no longer wanted')
    assert office.statuses() == {'q2': Status.CANCELED}
    assert office.message(waiting) == 'no longer wanted'
    assert not current.cancelled()


def test_cancelling_the_current_query_tells_the_models_and_answers_when_they_stopped():
    office = Office()
    ticket = office.hand_in()
    office.desk.take()
    office.desk.cancel(ticket, 'enough')
    assert ticket.cancelled()
    assert not office.answers
    office.finish(ticket)
    assert office.message(ticket) == 'enough'


def test_cancelling_an_answered_query_changes_nothing():
    office = Office()
    ticket = office.hand_in()
    office.work_off()
    office.desk.cancel(ticket, 'too late')
    assert office.statuses() == {'q1': Status.OK}
    assert len(office.answers) == 1


def test_closing_answers_what_is_here_and_refuses_what_comes():
    office = Office(Policy.QUEUE, 5)
    office.hand_in()
    current = office.desk.take()
    office.hand_in()
    office.desk.close('closed for today', 'everybody out')
    late = office.hand_in()
    assert current.cancelled()
    assert office.statuses() == {'q2': Status.CANCELED, 'q3': Status.REJECTED}
    assert office.message(late) == 'closed for today'
    office.finish(current)
    assert office.message(current) == 'everybody out'
    office.desk.open()
    assert office.desk.hand_in(office.ticket())


def test_a_ticket_is_answered_once_even_if_two_try():
    answers = []
    ticket = Ticket(Query('x', '1'), answers.append)
    assert ticket.refuse(Status.CANCELED, 'first')
    assert not ticket.refuse(Status.ERROR, 'second')
    assert [answer.message for answer in answers] == ['first']


def test_the_first_reason_to_cancel_counts():
    ticket = Ticket(Query('x', '1'), lambda answer: None)
    ticket.cancel('first')
    ticket.cancel('second')
    assert ticket.cancel_reason == 'first'


@pytest.mark.parametrize('policy', POLICIES)
def test_a_burst_from_several_threads_is_answered_exactly_once_each(policy):
    """Four clients ask and cancel, one worker works, the desk closes in the middle of it."""
    office = Office(policy, 7)
    done = threading.Event()
    random = Random(policy.value)

    def work():
        while not done.is_set() or office.desk.waiting:
            ticket = office.desk.take()
            if ticket is not None:
                office.finish(ticket)

    def ask(count):
        for _ in range(count):
            ticket = office.hand_in()
            if random.random() < 0.2:
                office.desk.cancel(ticket, 'changed my mind')

    worker = threading.Thread(target=work)
    clients = [threading.Thread(target=ask, args=(50,)) for _ in range(4)]
    for thread in (worker, *clients):
        thread.start()
    clients[0].join()
    office.desk.close('closed', 'closing')
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
