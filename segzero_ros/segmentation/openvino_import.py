"""Import OpenVINO without its telemetry.

Its import and its converter report their use to the vendor over the network, with an identifier
that they store in the home folder, unless the user has opted out. They do without where the
package `openvino_telemetry` is missing, and so it is hidden while they are imported.
"""

from __future__ import annotations

import sys
from typing import Any

_TELEMETRY = 'openvino_telemetry'


def _import_openvino() -> Any:
    modules: dict[str, Any] = sys.modules
    hidden = {
        name: modules.pop(name) for name in list(modules) if name.partition('.')[0] == _TELEMETRY
    }
    modules[_TELEMETRY] = None
    try:
        import openvino
    finally:
        del modules[_TELEMETRY]
        modules.update(hidden)
    return openvino


openvino = _import_openvino()
