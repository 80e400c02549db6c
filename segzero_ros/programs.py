"""The start of a node's program: what it cannot be imported without is said in one sentence."""

from __future__ import annotations

from importlib import import_module
import sys

from segzero_ros.extras import explain

FAILED = 2


def run(module: str) -> int:
    """Run a node's `main`; return its exit code, 2 where a package that it needs is missing.

    Args:
        module: in `segzero_ros.ros`, named as the program.
    """
    try:
        program = import_module(f'segzero_ros.ros.{module}')
    except ImportError as error:
        reason = explain(error)
        if not reason:
            raise
        sys.stderr.write(f'{module}: {reason}\n')
        return FAILED
    code: int = program.main()
    return code
