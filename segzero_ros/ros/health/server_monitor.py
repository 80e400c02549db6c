"""Monitor of the reasoning model's server between queries.

A thread requests the list of models, without a key. Any response shows that the server is there,
except a proxy's that reports it gone. Only this thread imports openai, if there is a server.
"""

from __future__ import annotations

import threading

# Seconds between two probes.
PERIOD = 5.0


class ServerMonitor:
    """Probes one server at a time, in its own thread.

    Attributes:
        error: why the server cannot be reached, with a hint; empty while it can.

    Args:
        period: seconds between two probes.
    """

    def __init__(self, period: float = PERIOD) -> None:
        self.error = ''
        self._period = period
        self._stop = threading.Event()

    def watch(self, base_url: str) -> None:
        """Probe this server from now on, and no other; empty: none."""
        self._stop.set()
        self.error = ''
        if base_url:
            self._stop = stop = threading.Event()
            threading.Thread(
                target=self._poll, args=(base_url, stop), name='server_monitor', daemon=True
            ).start()

    def _poll(self, base_url: str, stop: threading.Event) -> None:
        # Imported here, because nodes without a server do not need openai.
        from segzero_ros.reasoning.server_probe import ServerProbe

        with ServerProbe(base_url) as probe:
            while not stop.wait(self._period):
                error = probe.unreachable_reason()
                if not stop.is_set():
                    self.error = error
