"""Let an event loop come to rest before it is left."""

from __future__ import annotations

import asyncio
import time

# Seconds to wait for a cancelled stream to close.
CLOSE_LIMIT = 0.1


async def settle() -> None:
    """Let the tasks that a stream left in the event loop finish.

    A dropped generator is closed in a task of its own, which then drops the generator below it.
    Tasks that are pending when the loop stops would be destroyed with a warning.
    """
    deadline = time.monotonic() + CLOSE_LIMIT
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline:
        quiet += 1
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest, timeout=CLOSE_LIMIT)
            quiet = 0
        await asyncio.sleep(0)
