"""Start a node's executable, or report a missing dependency in one sentence."""

from __future__ import annotations

from importlib import import_module
import sys

from segzero_ros.extras import explain

FAILED = 2
# The module with each executable's `main`.
MODULES = {
    'perception_node': 'segzero_ros.ros.perception.node',
    'camera_sim': 'segzero_ros.ros.camera_sim.node',
    'voice_node': 'segzero_ros.ros.voice.node',
}


def run(program: str) -> int:
    """Run a node's `main`; return its exit code, 2 if a package that it needs is missing.

    Args:
        program: one of MODULES.
    """
    try:
        module = import_module(MODULES[program])
    except ImportError as error:
        reason = explain(error)
        if not reason:
            raise
        sys.stderr.write(f'{program}: {reason}\n')
        return FAILED
    code: int = module.main()
    return code
