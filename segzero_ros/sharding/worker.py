"""What a worker does with a shard, on this machine or on another."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
import traceback

from segzero_ros.extras import explain
from segzero_ros.sharding.base import Failed, Finished, Progress, Report, ShardTask
from segzero_ros.types import SegZeroError


class Stopped(BaseException):
    """Raised by a report that nobody receives any more, to end the shard."""


def run_shard(shard: ShardTask, report: Report) -> Finished | Failed:
    """Run a shard; return its end, also after any error.

    Args:
        shard: the shard.
        report: called with its progress.
    """
    try:
        return Finished(_function(shard.work)(shard.options, report))
    except SegZeroError as error:
        return Failed(str(error))
    except ImportError as error:
        reason = explain(error)
        return Failed(reason or _unexpected(error), '' if reason else traceback.format_exc())
    except Exception as error:
        return Failed(_unexpected(error), traceback.format_exc())


def _function(work: str) -> Callable[[object, Callable[[Progress], None]], object]:
    module, _, name = work.partition(':')
    found: Callable[[object, Report], object] = getattr(import_module(module), name)
    return found


def _unexpected(error: Exception) -> str:
    return f'Unexpected {type(error).__name__}: {error}; the log has the traceback.'
