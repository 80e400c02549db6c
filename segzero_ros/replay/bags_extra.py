"""Check for the optional libraries for bags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from segzero_ros.extras import EXTRAS, lacking
from segzero_ros.types import SegZeroError


class BagsMissing(SegZeroError):
    """The libraries for bags are not installed."""


@contextmanager
def require_bags() -> Iterator[None]:
    """Context for imports of modules that read or write bags.

    Raises:
        BagsMissing: a library is not installed; the message says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or '').partition('.')[0]
        if library not in EXTRAS['bags']:
            raise
        raise BagsMissing(f'{lacking("Bags need", error, "bags")}.') from error
