"""Whether the reasoning model's server is still there while nobody asks anything.

A thread of its own asks for the list of models, without a key: any answer but a proxy's that its
server is gone shows that it is there. Imports the standard library only.
"""

from __future__ import annotations

import http.client
import threading
import urllib.error
from urllib.parse import urlsplit
import urllib.request

# Seconds between two looks, and the longest that one may take.
PERIOD = 5.0
PATIENCE = 3.0
# What a proxy answers when there is nobody behind it.
_NOBODY = (502, 503, 504)


class ServerWatch:
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
        while not stop.wait(self._period):
            error = absence(base_url)
            if not stop.is_set():
                self.error = error


def absence(base_url: str, patience: float = PATIENCE) -> str:
    """Say why nobody answers at an address; empty when somebody does.

    Args:
        base_url: of an OpenAI-compatible API; a user and password in it are neither sent nor said.
        patience: seconds to wait for each step of the answer.
    """
    parts = urlsplit(base_url)
    url = parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl().rstrip('/')
    try:
        # The openai client, which takes http and https only, has spoken to it before.
        with urllib.request.urlopen(f'{url}/models', timeout=patience):  # noqa: S310
            return ''
    except urllib.error.HTTPError as error:
        if error.code not in _NOBODY:
            return ''
        cause = f'status {error.code}'
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = str(getattr(error, 'reason', '') or error)
    return (
        f'No server answers at {url} ({cause}). Start it again (docs/serving.md); until then '
        'queries end in ERROR.'
    )
