"""Whoever waits for models is told the step that loading is at, and afterwards what took long."""

import logging

import pytest

from segzero_ros import loading_steps
from segzero_ros.loading_steps import current_step, loading_step


def test_the_innermost_step_is_current_until_it_ends() -> None:
    assert current_step() is None
    with loading_step('reading the weights'):
        with loading_step('converting them'):
            assert str(current_step()) == 'Loading the models: converting them, for 0 s'
        assert str(current_step()).startswith('Loading the models: reading the weights, for ')
    assert current_step() is None


def test_a_step_that_fails_is_over() -> None:
    with pytest.raises(OSError, match='torn'), loading_step('reading the weights'):
        raise OSError('torn')
    assert current_step() is None


def test_steps_are_logged_and_long_ones_with_their_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10.0, 10.2, 20.0, 53.0])
    monkeypatch.setattr(loading_steps.time, 'monotonic', lambda: next(times))
    with caplog.at_level(logging.INFO):
        with loading_step('importing'):
            pass
        with loading_step('reading'):
            pass
    assert caplog.messages == [
        'Loading: importing',
        'Loading: reading',
        'Loading: reading took 33.0 s',
    ]
