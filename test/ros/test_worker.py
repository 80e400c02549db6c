"""The worker's thread outlives whatever a job raises, and never does two jobs at a time."""

from collections.abc import Iterator
import threading

import pytest

from segzero_ros.ros.perception.worker import Worker

DEADLINE = 20.0


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.stop()


def done(worker: Worker) -> threading.Event:
    """Return what is set when all that was handed in until now is done."""
    event = threading.Event()
    worker.submit(event.set, 'coming to the end')
    return event


def stuck(worker: Worker) -> threading.Event:
    """Hand in a job that hangs, and wait until it does; return what lets it go."""
    begun, release = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        release.wait(DEADLINE)

    worker.submit(hang, 'hanging')
    assert begun.wait(DEADLINE)
    return release


@pytest.mark.parametrize(
    'raised', [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), MemoryError(), ValueError()]
)
def test_the_next_job_is_done_whatever_one_raises(
    worker: Worker, raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise raised

    worker.submit(fail, 'failing')
    assert done(worker).wait(DEADLINE)
    assert 'A job of the worker failed: failing' in caplog.text
    assert worker.seconds_since_heartbeat() == 0.0 or worker.current_job == 'coming to the end'


def test_jobs_are_done_in_order_and_the_thread_ends_after_the_last(worker: Worker) -> None:
    did: list[int] = []
    release = stuck(worker)
    for number in range(5):
        worker.submit(lambda number=number: did.append(number), 'counting')
    assert worker.should_yield()
    worker.stop()
    release.set()
    assert worker.join(DEADLINE)
    assert did == [0, 1, 2, 3, 4]


def test_a_job_that_ends_while_it_is_abandoned_takes_no_other_with_it(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment is forced: the job is let go in the middle of leaving it behind."""
    release = stuck(worker)
    old = worker._thread
    threads: list[threading.Thread] = []
    left = threading.Event()
    for _ in range(50):
        worker.submit(lambda: threads.append(threading.current_thread()), 'noting the thread')
    start = worker._start_thread

    def start_as_it_ends() -> threading.Thread:
        release.set()
        return start()

    monkeypatch.setattr(worker, '_start_thread', start_as_it_ends)
    # In a thread of its own, for it is said that it never waits.
    leaver = threading.Thread(target=lambda: (worker.abandon_job(), left.set()), daemon=True)
    leaver.start()
    assert left.wait(DEADLINE)
    assert done(worker).wait(DEADLINE)
    old.join(DEADLINE)
    assert not old.is_alive()
    assert threads == [worker._thread] * 50


def test_only_a_job_that_has_not_ended_is_abandoned(worker: Worker) -> None:
    left: list[str] = []
    assert done(worker).wait(DEADLINE)
    worker.abandon_job()
    release = stuck(worker)
    worker.submit(lambda: None, 'waiting', lambda: left.append('waiting'))
    worker.abandon_job()
    assert done(worker).wait(DEADLINE)
    release.set()
    assert left == []


def test_abandoning_a_job_calls_its_callback(worker: Worker) -> None:
    called, begun, release = (threading.Event() for _ in range(3))

    def hang() -> None:
        begun.set()
        release.wait(DEADLINE)

    worker.submit(hang, 'hanging', called.set)
    assert begun.wait(DEADLINE)
    worker.abandon_job()
    assert called.is_set()
    release.set()


def test_an_abandoned_job_gives_no_heartbeat_for_another(worker: Worker) -> None:
    begun, spoken, release = (threading.Event() for _ in range(3))

    def speak() -> None:
        begun.set()
        release.wait(DEADLINE)
        worker.heartbeat()
        spoken.set()

    worker.submit(speak, 'speaking')
    assert begun.wait(DEADLINE)
    worker.abandon_job()
    other = stuck(worker)
    assert worker._current is not None
    heartbeat = worker._current.heartbeat
    release.set()
    assert spoken.wait(DEADLINE)
    assert worker._current.heartbeat == heartbeat
    other.set()
