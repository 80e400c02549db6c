"""Reasoning by a model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp and others.

One streamed chat completion per query, with the prompt and the resized image of the checkpoint's
dialect. Each failure of a server has its own error, and does not affect the next query.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
import json
import logging
import time
from typing import Any, cast, TypeVar

import openai

from segzero_ros.reasoning.answers import AnswerParser, StreamReporter
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText
from segzero_ros.reasoning.chat_messages import user_message
from segzero_ros.reasoning.chat_stream import Reply, take
from segzero_ros.reasoning.dialects import Dialect, dialect_named
from segzero_ros.reasoning.dialects.fitting import (
    is_thinking_by_name,
    warn_of_few_tokens,
    warn_of_other_name,
)
from segzero_ros.reasoning.event_loop import CLOSE_LIMIT, settle
from segzero_ros.reasoning.guided_decoding import answer_format, is_honoured
from segzero_ros.reasoning.preprocessing import resize_for_model
from segzero_ros.reasoning.request_options import drop_refused, request_options
from segzero_ros.reasoning.resize_check import ResizeCheck
from segzero_ros.reasoning.server_address import parse_address, read_api_key, secrets_of
from segzero_ros.reasoning.server_errors import (
    not_compatible,
    redacted,
    server_message,
    to_reasoner_error,
    unreachable,
)
from segzero_ros.types import (
    Cancelled,
    Frame,
    Grounding,
    MalformedAnswer,
    Query,
    ReasonerTimeout,
    ReasonerUnavailable,
    RgbImage,
    Task,
)

# Seconds between checks of a running query for cancellation and timeout.
POLL = 0.05
# Seconds to connect, and to list the models; the answer's own limit is an option.
CONNECT_LIMIT = 5.0
LISTING_LIMIT = 10.0
# Seconds to count an image's tokens; for a slow server, as long as its answer took.
COUNT_LIMIT = 10.0
# Seconds for the probe of guided decoding, in which a server compiles the grammar once.
CONSTRAINT_LIMIT = 60.0
# Seconds between attempts to connect. Nothing else is retried: a server that accepted a query may
# be answering it.
RETRY_DELAYS = (0.25, 0.5, 1.0, 2.0)
# Bounds on what a server sends. Tokens have about four characters, and an event of the stream a
# few hundred bytes.
MAX_CHARACTERS_PER_TOKEN = 64
MAX_RESPONSE_BYTES = 64_000_000

T = TypeVar('T')

_logger = logging.getLogger(__name__)


class OpenAIReasoner:
    """A served model. All calls come from one thread, which runs no event loop of its own."""

    def __init__(
        self,
        base_url: str,
        model: str = '',
        dialect: str = 'vision_reasoner',
        answer_parser: str = 'repair',
        max_new_tokens: int = 1024,
        time_limit: float = 60.0,
        seed: int = 0,
        api_key_env: str = 'OPENAI_API_KEY',
        constrain_answer: bool = False,
    ) -> None:
        """Connect, and check that the server serves the model.

        Args:
            base_url: of the server's API, such as `http://192.168.1.20:8000/v1`.
            model: the served model's name; empty: the only one it serves.
            dialect: how the checkpoint is spoken to.
            answer_parser: `repair` or `strict`.
            max_new_tokens: most tokens an answer may have.
            time_limit: most seconds an answer may take; 0 for no limit.
            seed: for servers that sample although the temperature is 0.
            api_key_env: the environment variable with the server's key; it may be unset.
            constrain_answer: guided decoding: the server constrains the answer to its JSON schema
                (vLLM, SGLang, and Ray Serve over them).

        Raises:
            ReasonerUnavailable: it does not; the text names the address, the cause and a hint.
        """
        address = parse_address(base_url)
        self._url = address._replace(netloc=address.netloc.rpartition('@')[2]).geturl()
        if address.password:
            _logger.warning(
                'base_url holds a password, which everybody can read who can read parameters: '
                'put a key into an environment variable and name that in api_key_env.'
            )
        self._key_env = api_key_env
        self._time_limit = time_limit
        self._constrain_answer = constrain_answer
        self._parser = cast(AnswerParser, answer_parser)
        try:
            self._dialect = dialect_named(dialect)
            self._dialect.reader(1, 1, self._parser)
        except ValueError as error:
            raise ReasonerUnavailable(str(error)) from error
        self._request = request_options(self._dialect, max_new_tokens, seed)
        key = read_api_key(api_key_env, address, self._url)
        self._secrets = secrets_of(key, address)
        self._loop = asyncio.new_event_loop()
        self._response: Any = None
        self._count_limit = COUNT_LIMIT
        # The last connection error, while there is no connection.
        self._connection_error = ''
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key,
            max_retries=0,
            timeout=openai.Timeout(None, connect=CONNECT_LIMIT),
            # Uncompressed, so that the byte count bounds the memory.
            default_headers={'Accept-Encoding': 'identity'},
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={'response': [self._note]}),
        )
        try:
            self._model, owner = self._loop.run_until_complete(self._served(model))
            self._request['model'] = self._model
            warn_of_other_name(self._model, self._dialect)
            self._is_thinking = is_thinking_by_name(self._model, self._dialect)
            if self._is_thinking:
                warn_of_few_tokens(self._model, max_new_tokens, self._dialect)
            if constrain_answer:
                self._loop.run_until_complete(self._require_constraint())
            self._resizing = ResizeCheck(self._dialect, self._url, owner, self._count_tokens)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The served model and its address."""
        return f'{self._model} at {self._url}'

    @property
    def leaves_processors_free(self) -> bool:
        """True: the model runs on the server."""
        return True

    @property
    def reads_marks(self) -> bool:
        """Whether the dialect answers in words."""
        return Task.ANSWER in self._dialect.tasks

    def reason(
        self,
        frame: Frame,
        query: Query,
        on_text: OnText = ignore,
        cancelled: IsCancelled = never,
        on_object: OnObject = ignore,
    ) -> Grounding:
        """Query the server; see `Reasoner.reason`."""
        dialect = self._dialect.for_task(query.task or Task.SEGMENT)
        reader = dialect.reader(
            frame.width, frame.height, self._parser, query.text, thinking=self._is_thinking
        )
        most = MAX_CHARACTERS_PER_TOKEN * self._request['max_tokens']
        reply = Reply(StreamReporter(reader, on_text, on_object), most)
        self._response = None
        self._connection_error = ''
        return self._loop.run_until_complete(
            self._run_with_limits(
                self._complete(frame, query, dialect, reply, cancelled), reply, cancelled
            )
        )

    def close(self) -> None:
        """Close the connections."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _end(self) -> None:
        await self._client.close()
        await settle()
        await self._loop.shutdown_asyncgens()
        await settle()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await settle()

    async def _run_with_limits(
        self, work: Coroutine[Any, Any, T], reply: Reply, cancelled: IsCancelled
    ) -> T:
        """Await the work, until it times out or is cancelled."""
        deadline = time.monotonic() + (self._time_limit or float('inf'))
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=POLL))[0]:
                if cancelled():
                    raise Cancelled(reply.reporter.text)
                self._refuse_oversized_response()
                if time.monotonic() > deadline:
                    if self._connection_error:
                        raise unreachable(self._url, self._connection_error)
                    raise ReasonerTimeout(
                        f'{self.name} did not finish within {self._time_limit:g} s; it had '
                        f'written {reply.tokens} tokens.',
                        reply.reporter.text,
                    )
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=CLOSE_LIMIT)
            await settle()

    async def _note(self, response: Any) -> None:
        """Record each response before its body is read."""
        self._response = response
        self._connection_error = ''
        if 'Content-Encoding' in response.headers:
            raise ReasonerUnavailable(
                f'{self._url} sends its answer compressed, which nobody asked for: it could grow '
                'beyond all bounds. Switch the compression off, also in a proxy before it.'
            )

    def _refuse_oversized_response(self) -> None:
        """Raise ReasonerUnavailable when a response is larger than any answer can be."""
        if self._response is not None and self._response.num_bytes_downloaded > MAX_RESPONSE_BYTES:
            raise ReasonerUnavailable(
                f'{self._url} sent more than {MAX_RESPONSE_BYTES // 1_000_000} MB for one answer; '
                'the connection was closed.'
            )

    async def _complete(
        self, frame: Frame, query: Query, dialect: Dialect, reply: Reply, cancelled: IsCancelled
    ) -> Grounding:
        """Send the query and read the stream until the answer is complete.

        Args:
            frame: the image.
            query: the text.
            dialect: for the query's task.
            reply: takes the answer.
            cancelled: polled with each chunk.
        """
        seen = resize_for_model(dialect, frame.image)
        prompt = dialect.prompt(query.text)
        started = time.monotonic()
        try:
            content: dict[str, Any] = {'messages': user_message(seen, prompt)}
            if self._constrain_answer and dialect.schema is not None:
                content['response_format'] = answer_format(dialect)
            async with await self._create_completion(content) as stream:
                async for chunk in stream:
                    if cancelled():
                        raise Cancelled(reply.reporter.text)
                    if not take(chunk, reply):
                        break
        except (openai.APIError, json.JSONDecodeError) as error:
            text = reply.reporter.text
            raise to_reasoner_error(
                error, self._url, self._key_env, text, self._secrets
            ) from error
        size = seen.shape[1], seen.shape[0]
        self._count_limit = max(COUNT_LIMIT, time.monotonic() - started)
        try:
            grounding = self._grounding(reply)
        except MalformedAnswer:
            # A server that resizes the image again may be the cause.
            if reply.finish or reply.reporter.complete:
                await self._resizing.check(size, prompt, reply.charged)
            raise
        if grounding.objects:
            await self._resizing.check(size, prompt, reply.charged)
        return grounding

    async def _count_tokens(self, image: RgbImage, text: str) -> int | None:
        """Return the prompt tokens of a text with an image; None if the server reports none."""
        request = self._request | {'messages': user_message(image, text), 'max_tokens': 1}
        whole = {key: value for key, value in request.items() if not key.startswith('stream')}
        asked = [request, whole] if 'stream_options' in request else [whole]
        for one in asked:
            try:
                charged = await asyncio.wait_for(self._charged(one), self._count_limit)
            except asyncio.TimeoutError:
                return None
            # An error here does not concern the answer.
            except (openai.APIError, ValueError, TypeError, AttributeError):
                continue
            if charged:
                return charged
        return None

    async def _charged(self, request: dict[str, Any]) -> int:
        """Return the prompt tokens that the server reports for a request; 0 if none."""
        reply = await self._client.chat.completions.create(**request)
        if 'stream' not in request:
            return int(reply.usage.prompt_tokens)
        charged = 0
        async with reply as stream:
            async for chunk in stream:
                charged = getattr(chunk.usage, 'prompt_tokens', None) or charged
        return charged

    async def _create_completion(self, content: dict[str, Any]) -> Any:
        """Start the completion, again without optional fields if the server rejects these.

        Args:
            content: what the request has beside the fixed options.
        """
        try:
            return await self._with_retries(
                lambda: self._client.chat.completions.create(**content, **self._request)
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not drop_refused(self._request, f'{error.message} {error.body}', self._url):
                raise
        return await self._create_completion(content)

    async def _with_retries(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call, and retry with growing delays while the connection fails."""
        for pause in RETRY_DELAYS:
            try:
                return await call()
            except openai.APITimeoutError:
                raise
            except openai.APIConnectionError as error:
                self._connection_error = redacted(str(error.__cause__ or error), self._secrets)
                _logger.info('%s: %s Next attempt in %g s', self._url, error, pause)
                await asyncio.sleep(pause)
        return await call()

    def _grounding(self, reply: Reply) -> Grounding:
        """Return the result of a stream that has ended."""
        text = reply.reporter.text
        if not reply.finish and not reply.reporter.complete:
            if not text:
                raise not_compatible(self._url)
            raise MalformedAnswer(f'{self._url} broke off in the middle of it', text)
        try:
            return reply.reporter.finish(reply.tokens)
        except MalformedAnswer as error:
            if reply.finish != 'length':
                raise
            limit = self._request['max_tokens']
            reason = f'{error.reason}; the server stopped at {limit} tokens (max_new_tokens)'
            raise MalformedAnswer(reason, text) from error

    async def _served(self, wanted: str) -> tuple[str, str]:
        """Return the model's name and its `owned_by`."""
        owners = await self._listing()
        if not owners and wanted:
            _logger.warning(
                '%s lists no models: the first query shows if %s is there', self._url, wanted
            )
            return wanted, ''
        if not wanted and len(owners) == 1:
            wanted = next(iter(owners))
        if wanted not in owners:
            asked = repr(wanted) if wanted else 'none was named'
            raise ReasonerUnavailable(
                f'{self._url} does not serve the model asked for ({asked}); it serves '
                f'{", ".join(map(repr, owners)) or "none"}. Set `model` to a name that it serves, '
                'or start a server with the model (docs/serving.md).'
            )
        return wanted, owners[wanted]

    async def _listing(self) -> dict[str, str]:
        """Return each listed model's `owned_by`; empty if the server has no list."""
        try:
            listing = await asyncio.wait_for(
                self._size_limited(
                    self._with_retries(lambda: self._client.get('/models', cast_to=object))
                ),
                LISTING_LIMIT,
            )
        except asyncio.TimeoutError as error:
            raise unreachable(self._url, f'silent for {LISTING_LIMIT:g} s') from error
        except openai.NotFoundError:
            return {}
        except (openai.APIError, json.JSONDecodeError) as error:
            raise to_reasoner_error(error, self._url, self._key_env, '', self._secrets) from error
        entries = listing.get('data') if isinstance(listing, dict) else None
        if not isinstance(entries, list):
            raise not_compatible(self._url)
        return {
            str(entry['id']): str(entry.get('owned_by', ''))
            for entry in entries
            if isinstance(entry, dict) and 'id' in entry
        }

    async def _size_limited(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the work while its response is within the size limit."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=POLL))[0]:
                self._refuse_oversized_response()
            return task.result()
        finally:
            task.cancel()

    async def _require_constraint(self) -> None:
        """Raise ReasonerUnavailable unless the server holds answers to a format."""
        try:
            answer_format(self._dialect)
        except ValueError as error:
            raise ReasonerUnavailable(str(error)) from error
        try:
            if await asyncio.wait_for(is_honoured(self._constrained), CONSTRAINT_LIMIT):
                return
            cause = 'it writes something else'
        except asyncio.TimeoutError:
            cause = f'no answer within {CONSTRAINT_LIMIT:g} s'
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            cause = redacted(server_message(error.body or error.message), self._secrets)
        except (openai.APIError, json.JSONDecodeError) as error:
            raise to_reasoner_error(error, self._url, self._key_env, '', self._secrets) from error
        raise ReasonerUnavailable(
            f'{self._url} does not hold an answer to the format that it is asked for ({cause}); '
            'vLLM and SGLang do, without a --reasoning-parser. Switch server.constrain_answer off.'
        )

    async def _constrained(self, form: dict[str, Any], tokens: int) -> str:
        """Return the model's text under a `response_format`."""
        reply = await self._client.chat.completions.create(
            model=self._model,
            messages=[{'role': 'user', 'content': 'What do you see?'}],
            response_format=cast(Any, form),
            max_tokens=tokens,
            temperature=0.0,
        )
        choices = getattr(reply, 'choices', None)
        return (choices[0].message.content or '') if choices else ''
