"""Whether a model server is there, asked as the reasoner asks it.

The openai client's own HTTP library makes the request, so that proxies and certificates count for
the probe exactly as for a query.
"""

from __future__ import annotations

from types import TracebackType
from urllib.parse import urlsplit

import openai

from segzero_ros.reasoning.server_address import NO_KEY

# The longest that each step of an answer may take, in seconds.
PATIENCE = 3.0
# What a proxy answers when there is nobody behind it.
_NOBODY = (502, 503, 504)


class ServerProbe:
    """Asks one server for its list of models, without a key. Used from one thread."""

    def __init__(self, base_url: str, patience: float = PATIENCE) -> None:
        """Prepare; nothing is sent yet.

        Args:
            base_url: of an OpenAI-compatible API; a user and password in it are neither sent nor
                named in messages.
            patience: seconds to wait for each step of the answer.
        """
        parts = urlsplit(base_url)
        self._url = parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl().rstrip('/')
        self._client = openai.OpenAI(
            base_url=self._url, api_key=NO_KEY, max_retries=0, timeout=patience
        )

    def __enter__(self) -> ServerProbe:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def absence(self) -> str:
        """Say why no server answers; empty when one does, whatever it answers."""
        try:
            # Only the head of the answer is read: a list may be of any length, or none.
            with self._client.models.with_streaming_response.list():
                return ''
        except openai.APIStatusError as error:
            if error.status_code not in _NOBODY:
                return ''
            cause = f'status {error.status_code}'
        except openai.APIConnectionError as error:
            cause = str(error.__cause__ or error)
        return (
            f'No server answers at {self._url} ({cause}). Start it again (docs/serving.md); '
            'until then queries end in ERROR.'
        )
