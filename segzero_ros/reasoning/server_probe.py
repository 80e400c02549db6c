"""Check that a model server answers, with the reasoner's own HTTP client.

So proxies and certificates apply to the probe exactly as to a query.
"""

from __future__ import annotations

from types import TracebackType
from urllib.parse import urlsplit

import openai

from segzero_ros.reasoning.server_address import NO_KEY

# Seconds for each step of the response.
STEP_TIMEOUT = 3.0
# Status codes of a proxy without a backend.
_NO_BACKEND = (502, 503, 504)


class ServerProbe:
    """Requests one server's list of models, without a key. Used from one thread."""

    def __init__(self, base_url: str, timeout: float = STEP_TIMEOUT) -> None:
        """Prepare; nothing is sent yet.

        Args:
            base_url: of an OpenAI-compatible API; a user and password in it are neither sent nor
                named in messages.
            timeout: seconds for each step of the response.
        """
        parts = urlsplit(base_url)
        self._url = parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl().rstrip('/')
        self._client = openai.OpenAI(
            base_url=self._url, api_key=NO_KEY, max_retries=0, timeout=timeout
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

    def unreachable_reason(self) -> str:
        """Return why no server answers; empty when one does, with any status."""
        try:
            # Only the headers are read: the body may be of any length.
            with self._client.models.with_streaming_response.list():
                return ''
        except openai.APIStatusError as error:
            if error.status_code not in _NO_BACKEND:
                return ''
            cause = f'status {error.status_code}'
        except openai.APIConnectionError as error:
            cause = str(error.__cause__ or error)
        return (
            f'No server answers at {self._url} ({cause}). Start it again (docs/serving.md); '
            'until then queries end in ERROR.'
        )
