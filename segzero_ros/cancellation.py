"""Stopping a model that is at work in the caller's own thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Check = Callable[[], None]


@contextmanager
def cancellable(modules: Iterable[Any], check: Check | None) -> Iterator[None]:
    """Call `check`, if there is one, before each of the modules; what it raises ends their work.

    Give it what modules consist of as well: on a CPU a single layer may take so long that a
    person notices.
    """

    def before(*_: Any) -> None:
        assert check is not None
        check()

    handles = [module.register_forward_pre_hook(before) for module in modules if check]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
