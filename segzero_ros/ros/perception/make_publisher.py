"""How the parts of `ResultPublishers` create their publishers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rclpy.publisher import Publisher

# Takes rclpy's description of how many subscribers have come and gone.
OnMatched = Callable[[Any], None]


class MakePublisher(Protocol):
    """Creates a publisher of a message type on a topic."""

    def __call__(
        self,
        message_type: Any,
        topic: str,
        depth: int,
        *,
        latched: bool = False,
        on_matched: OnMatched | None = None,
    ) -> Publisher:
        """Return the publisher.

        Args:
            message_type: class of the messages.
            topic: relative name.
            depth: of the QoS.
            latched: whether later subscribers get the last messages (transient local).
            on_matched: called in the executor's thread when a subscriber has come or gone.
        """
        ...
