"""The connection to one OpenAI-compatible server: its models, its streams, limits and cancels.

One HTTP client and one event loop, shared by the reasoner and the router that the server has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
import json
import logging
import time
from typing import Any, TypeVar

import openai

from segzero_ros.reasoning.base import IsCancelled
from segzero_ros.reasoning.chat_stream import Reply, take
from segzero_ros.reasoning.event_loop import CLOSE_LIMIT, settle
from segzero_ros.reasoning.request_options import drop_refused
from segzero_ros.reasoning.server_address import parse_address, read_api_key, secrets_of
from segzero_ros.reasoning.server_errors import (
    not_compatible,
    redacted,
    to_reasoner_error,
    unreachable,
)
from segzero_ros.types import Cancelled, ReasonerTimeout, ReasonerUnavailable, SegZeroError

# Seconds between checks of a running query for cancellation and timeout.
POLL = 0.05
# Seconds to connect, and to list the models; the answer's own limit is an option.
CONNECT_LIMIT = 5.0
LISTING_LIMIT = 10.0
# Seconds between attempts to connect. Nothing else is retried: a server that accepted a query may
# be answering it.
RETRY_DELAYS = (0.25, 0.5, 1.0, 2.0)
# Bounds on what a server sends. Tokens have about four characters, and an event of the stream a
# few hundred bytes.
MAX_CHARACTERS_PER_TOKEN = 64
MAX_RESPONSE_BYTES = 64_000_000

T = TypeVar('T')

_logger = logging.getLogger(__name__)


class ModelServer:
    """One server. All calls come from one thread, which runs no event loop of its own.

    Attributes:
        url: its address without credentials.
        client: the HTTP client.
        secrets: what messages must not repeat: the key, a password.
    """

    def __init__(self, base_url: str, api_key_env: str = 'OPENAI_API_KEY') -> None:
        """Prepare; nothing is sent yet.

        Args:
            base_url: of the server's API, such as `http://192.168.1.20:8000/v1`.
            api_key_env: the environment variable with the server's key; it may be unset.

        Raises:
            ReasonerUnavailable: the address or the key cannot be used.
        """
        address = parse_address(base_url)
        self.url = address._replace(netloc=address.netloc.rpartition('@')[2]).geturl()
        if address.password:
            _logger.warning(
                'base_url holds a password, which everybody can read who can read parameters: '
                'put a key into an environment variable and name that in api_key_env.'
            )
        self._key_env = api_key_env
        key = read_api_key(api_key_env, address, self.url)
        self.secrets = secrets_of(key, address)
        self._loop = asyncio.new_event_loop()
        self._response: Any = None
        # The last connection error, while there is no connection.
        self._connection_error = ''
        self.client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key,
            max_retries=0,
            timeout=openai.Timeout(None, connect=CONNECT_LIMIT),
            # Uncompressed, so that the byte count bounds the memory.
            default_headers={'Accept-Encoding': 'identity'},
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={'response': [self._note]}),
        )

    def close(self) -> None:
        """Close the connections; may be called again."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _end(self) -> None:
        await self.client.close()
        await settle()
        await self._loop.shutdown_asyncgens()
        await settle()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await settle()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a request that has a limit of its own."""
        return self._loop.run_until_complete(work)

    def run_with_limits(
        self,
        work: Coroutine[Any, Any, T],
        reply: Reply,
        cancelled: IsCancelled,
        time_limit: float,
        name: str,
    ) -> T:
        """Run a request until it is done, times out or is cancelled.

        Args:
            work: the request; fills the reply.
            reply: what has been written so far.
            cancelled: polled; True stops the model.
            time_limit: most seconds it may take; 0 for no limit.
            name: of the model, for the message.

        Raises:
            Cancelled: `cancelled` became True.
            ReasonerTimeout: the time limit was exceeded.
            ReasonerUnavailable: no connection was made in that time, or the server floods.
        """
        self._response = None
        self._connection_error = ''
        return self._loop.run_until_complete(
            self._limited(work, reply, cancelled, time_limit, name)
        )

    async def _limited(
        self,
        work: Coroutine[Any, Any, T],
        reply: Reply,
        cancelled: IsCancelled,
        time_limit: float,
        name: str,
    ) -> T:
        deadline = time.monotonic() + (time_limit or float('inf'))
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=POLL))[0]:
                if cancelled():
                    raise Cancelled(reply.reporter.text)
                self._refuse_oversized_response()
                if time.monotonic() > deadline:
                    if self._connection_error:
                        raise unreachable(self.url, self._connection_error)
                    raise ReasonerTimeout(
                        f'{name} did not finish within {time_limit:g} s; it had '
                        f'written {reply.tokens} tokens.',
                        reply.reporter.text,
                    )
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=CLOSE_LIMIT)
            await settle()

    async def stream(
        self,
        content: dict[str, Any],
        options: dict[str, Any],
        reply: Reply,
        cancelled: IsCancelled,
    ) -> None:
        """Request a streamed completion and read it until further text does not matter.

        Args:
            content: what the request has beside the fixed options.
            options: from `request_options`; those that the server refuses are removed.
            reply: takes the text.
            cancelled: polled with each chunk.

        Raises:
            Cancelled: `cancelled` became True.
            MalformedAnswer: the stream is none, or longer than the reply may be.
            openai.APIError, json.JSONDecodeError: see `error`.
        """
        async with await self._create_completion(content, options) as stream:
            async for chunk in stream:
                if cancelled():
                    raise Cancelled(reply.reporter.text)
                if not take(chunk, reply):
                    break

    async def _create_completion(self, content: dict[str, Any], options: dict[str, Any]) -> Any:
        """Start the completion, again without optional fields if the server rejects these."""
        try:
            return await self._with_retries(
                lambda: self.client.chat.completions.create(**content, **options)
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not drop_refused(options, f'{error.message} {error.body}', self.url):
                raise
        return await self._create_completion(content, options)

    def error(self, error: openai.APIError | json.JSONDecodeError, text: str = '') -> SegZeroError:
        """Return an error of the client as one of the reasoner.

        Args:
            error: the client's error.
            text: the answer so far.
        """
        return to_reasoner_error(error, self.url, self._key_env, text, self.secrets)

    def served(self, wanted: str, parameter: str) -> tuple[str, str]:
        """Return the name of a model that is served, and its `owned_by`.

        Args:
            wanted: the model's name; empty: the only one that is served.
            parameter: that names it, for the message.

        Raises:
            ReasonerUnavailable: it is not served, or the server does not answer.
        """
        owners = self.run(self._listing())
        if not owners and wanted:
            _logger.warning(
                '%s lists no models: the first query shows if %s is there', self.url, wanted
            )
            return wanted, ''
        if not wanted and len(owners) == 1:
            wanted = next(iter(owners))
        if wanted not in owners:
            asked = repr(wanted) if wanted else 'none was named'
            raise ReasonerUnavailable(
                f'{self.url} does not serve the model asked for ({asked}); it serves '
                f'{", ".join(map(repr, owners)) or "none"}. Set {parameter} to a name that it '
                'serves, or start a server with the model (docs/serving.md).'
            )
        return wanted, owners[wanted]

    async def _listing(self) -> dict[str, str]:
        """Return each listed model's `owned_by`; empty if the server has no list."""
        try:
            listing = await asyncio.wait_for(
                self._size_limited(
                    self._with_retries(lambda: self.client.get('/models', cast_to=object))
                ),
                LISTING_LIMIT,
            )
        except asyncio.TimeoutError as error:
            raise unreachable(self.url, f'silent for {LISTING_LIMIT:g} s') from error
        except openai.NotFoundError:
            return {}
        except (openai.APIError, json.JSONDecodeError) as error:
            raise self.error(error) from error
        entries = listing.get('data') if isinstance(listing, dict) else None
        if not isinstance(entries, list):
            raise not_compatible(self.url)
        return {
            str(entry['id']): str(entry.get('owned_by', ''))
            for entry in entries
            if isinstance(entry, dict) and 'id' in entry
        }

    async def _with_retries(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call, and retry with growing delays while the connection fails."""
        for pause in RETRY_DELAYS:
            try:
                return await call()
            except openai.APITimeoutError:
                raise
            except openai.APIConnectionError as error:
                self._connection_error = redacted(str(error.__cause__ or error), self.secrets)
                _logger.info('%s: %s Next attempt in %g s', self.url, error, pause)
                await asyncio.sleep(pause)
        return await call()

    async def _size_limited(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the work while its response is within the size limit."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=POLL))[0]:
                self._refuse_oversized_response()
            return task.result()
        finally:
            task.cancel()

    async def _note(self, response: Any) -> None:
        """Record each response before its body is read."""
        self._response = response
        self._connection_error = ''
        if 'Content-Encoding' in response.headers:
            raise ReasonerUnavailable(
                f'{self.url} sends its answer compressed, which nobody asked for: it could grow '
                'beyond all bounds. Switch the compression off, also in a proxy before it.'
            )

    def _refuse_oversized_response(self) -> None:
        """Raise ReasonerUnavailable when a response is larger than any answer can be."""
        if self._response is not None and self._response.num_bytes_downloaded > MAX_RESPONSE_BYTES:
            raise ReasonerUnavailable(
                f'{self.url} sent more than {MAX_RESPONSE_BYTES // 1_000_000} MB for one answer; '
                'the connection was closed.'
            )
