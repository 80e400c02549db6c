"""Whether the reasoning model's server is still there while nobody asks anything.

A thread of its own asks for the list of models, without a key: any answer but a proxy's that its
server is gone shows that it is there. openai is imported in that thread, when there is a server.
"""

from __future__ import annotations

import threading

# Seconds between two probes.
PERIOD = 5.0


class ServerMonitor:
    """Looks after one server at a time, in a thread of its own.

    Attributes:
        error: why the server cannot be reached, with the cure; empty while it can.
    """

    def __init__(self, period: float = PERIOD) -> None:
        self.error = ''
        self._period = period
        self._stop = threading.Event()

    def watch(self, base_url: str) -> None:
        """Look after this server from now on, and after no other; empty: after none."""
        self._stop.set()
        self.error = ''
        if base_url:
            self._stop = stop = threading.Event()
            threading.Thread(
                target=self._look, args=(base_url, stop), name='server_watch', daemon=True
            ).start()

    def _look(self, base_url: str, stop: threading.Event) -> None:
        # The reasoner has loaded it before; nodes without a server never do.
        from segzero_ros.reasoning.server_probe import ServerProbe

        with ServerProbe(base_url) as probe:
            while not stop.wait(self._period):
                error = probe.unreachable_reason()
                if not stop.is_set():
                    self.error = error
