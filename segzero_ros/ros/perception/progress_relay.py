"""Progress of one answer, relayed to the topics of its reasoning and to the client."""

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
        query_id: of the query.
        client: the client's listeners.
        publishers: with the topics `reasoning` and `reasoning_stream`.
    """

    def __init__(self, query_id: str, client: Listeners, publishers: ResultPublishers) -> None:
        self._query_id = query_id
        self._client = client
        self._publishers = publishers
        self._wrote = self._closed = False
        self._lock = threading.Lock()
        self.listeners = Listeners(self._on_stage, self._on_text, client.on_object)

    def close(self) -> None:
        """Relay nothing more, and end the published reasoning.

        May be called from any thread and does not wait for a hung one, because abandoned models
        may go on writing.
        """
        if self._closed:
            return
        self._closed = True
        if not self._lock.acquire(timeout=PUBLISH_TIMEOUT):
            return
        try:
            self._publishers.end_reasoning(self._query_id, wrote=self._wrote)
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
            self._publishers.publish_reasoning(self._query_id, piece)
        self._client.on_text(piece)
