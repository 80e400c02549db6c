"""Progress of one answer, relayed to the topic `reasoning` and to the client."""

from __future__ import annotations

import threading

from segzero_ros.pipeline import Listeners
from segzero_ros.ros.perception.result_publishers import ResultPublishers
from segzero_ros.types import Stage

# Seconds that `close` waits for a thread that is publishing; it takes longer only if it hangs.
PUBLISH_TIMEOUT = 0.1


class ProgressRelay:
    """Relays stages, reasoning and objects of one answer until it is closed.

    Attributes:
        listeners: to be called by the pipeline.

    Args:
        client: the client's listeners.
        publishers: with the topic `reasoning`.
    """

    def __init__(self, client: Listeners, publishers: ResultPublishers) -> None:
        self._client = client
        self._publishers = publishers
        self._wrote = self._closed = False
        self._lock = threading.Lock()
        self.listeners = Listeners(self._on_stage, self._on_text, client.on_object)

    def close(self) -> None:
        """Relay nothing more, and end the published reasoning with a newline.

        May be called from any thread and does not wait for a hung one, because abandoned models
        may go on writing.
        """
        self._closed = True
        if not self._lock.acquire(timeout=PUBLISH_TIMEOUT):
            return
        try:
            if self._wrote:
                self._wrote = False
                self._publishers.publish_reasoning('\n')
        finally:
            self._lock.release()

    def _on_stage(self, stage: Stage) -> None:
        if not self._closed:
            self._client.on_stage(stage)

    def _on_text(self, piece: str) -> None:
        with self._lock:
            if self._closed:
                return
            self._wrote = True
            self._publishers.publish_reasoning(piece)
        self._client.on_text(piece)
