"""Cancel a torch model that runs in the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Check = Callable[[], None]


@contextmanager
def cancellable(modules: Iterable[Any], check: Check | None) -> Iterator[None]:
    """Call `check` before each module's forward pass; an exception it raises aborts the model.

    Args:
        modules: torch modules. Include submodules: on a CPU a single layer may take so long that
            the delay is noticeable.
        check: None for no check.
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
