"""Bags need libraries that not every installation has: without them, one sentence says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from segzero_ros.extras import EXTRAS, lacking
from segzero_ros.types import SegZeroError


class BagsMissing(SegZeroError):
    """The libraries that read and write bags are not installed."""


@contextmanager
def needs_bags() -> Iterator[None]:
    """Import within it what reads or writes bags.

    Raises:
        BagsMissing: one of the libraries is not installed; the text says how to get it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or '').partition('.')[0]
        if library not in EXTRAS['bags']:
            raise
        raise BagsMissing(f'{lacking("Bags need", error, "bags")}.') from error
