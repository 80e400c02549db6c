"""Reasoning by a model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp and others.

One streamed chat completion per query, with the prompt and the very picture that the checkpoint's
dialect asks for. Everything that a server can do wrong is an error of its own, and the next query
starts afresh.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
import json
import logging
import os
import re
import time
from typing import Any, cast, TypeVar
from urllib.parse import SplitResult

import openai

from segzero_ros.reasoning.answers import AnswerParser, StreamReporter
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText
from segzero_ros.reasoning.chat_messages import user_message
from segzero_ros.reasoning.chat_stream import Reply, take
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.reasoning.guided_decoding import answer_format, is_honoured
from segzero_ros.reasoning.preprocessing import resize_for_model
from segzero_ros.reasoning.resize_check import ResizeCheck
from segzero_ros.reasoning.server_address import LOCAL, NO_KEY, parse_address, secrets_of
from segzero_ros.reasoning.server_errors import (
    explained,
    hidden,
    not_compatible,
    quoted,
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
)

# How often a silent server's query is looked at: whether it was cancelled, or its time is over.
POLL = 0.05
# How long a cancelled stream may take to close before it is left to close by itself.
CLOSE_LIMIT = 0.1
# To make a connection, and to list the models; an answer may take as long as the options allow.
CONNECT_LIMIT = 5.0
LISTING_LIMIT = 10.0
# To count what an image costs; a slow server gets as long as its answer took.
COUNT_LIMIT = 10.0
# To write the few tokens that show whether answers are constrained; the first time a server
# compiles the grammar for it.
CONSTRAINT_LIMIT = 60.0
# Between attempts to connect. Nothing else is repeated: a server that has taken a query may be
# answering it, and what it refuses once it refuses again.
RETRY_AFTER = (0.25, 0.5, 1.0, 2.0)
# A server decides what it sends; these bound what is kept of it. Real tokens are some four
# characters long, and an event of the stream is a few hundred bytes.
MOST_CHARACTERS_PER_TOKEN = 64
MOST_BYTES = 64_000_000

T = TypeVar('T')

_VARIABLE = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')
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
        """Make sure that the server is there and serves the model.

        Args:
            base_url: of the server's API, such as `http://192.168.1.20:8000/v1`.
            model: the served model's name; empty: the only one it serves.
            dialect: how the checkpoint is spoken to.
            answer_parser: `repair` or `strict`.
            max_new_tokens: most tokens an answer may have.
            time_limit: most seconds an answer may take; 0 for no limit.
            seed: for servers that sample although the temperature is 0.
            api_key_env: the environment variable with the server's key; it may be unset.
            constrain_answer: have the server hold the answer to its JSON schema (vLLM, SGLang and
                Ray Serve over them can).

        Raises:
            ReasonerUnavailable: it is not; the text names the address, the cause and the cure.
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
        self._parser = cast(AnswerParser, answer_parser)
        try:
            self._dialect = dialect_named(dialect)
            self._dialect.reader(1, 1, self._parser)
        except ValueError as error:
            raise ReasonerUnavailable(str(error)) from error
        self._request: dict[str, Any] = {
            'stream': True,
            'max_tokens': max_new_tokens,
            'temperature': 0.0,
            'seed': seed,
            'stream_options': {'include_usage': True},
        }
        key = self._key(address)
        self._secrets = secrets_of(key, address)
        self._loop = asyncio.new_event_loop()
        self._response: Any = None
        self._count_limit = COUNT_LIMIT
        # Why there is no connection, while there is none.
        self._unconnected = ''
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=key,
            max_retries=0,
            timeout=openai.Timeout(None, connect=CONNECT_LIMIT),
            # What comes compressed may be a thousand times as large as what is counted.
            default_headers={'Accept-Encoding': 'identity'},
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={'response': [self._note]}),
        )
        try:
            self._model, owner = self._loop.run_until_complete(self._served(model))
            self._request['model'] = self._model
            if constrain_answer:
                constraint = self._loop.run_until_complete(self._constraint())
                self._request['response_format'] = constraint
            self._resizing = ResizeCheck(self._dialect, self._url, owner, self._count_tokens)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The served model and where it is."""
        return f'{self._model} at {self._url}'

    @property
    def leaves_processors_free(self) -> bool:
        """True: the server computes."""
        return True

    def reason(
        self,
        frame: Frame,
        query: Query,
        on_text: OnText = ignore,
        cancelled: IsCancelled = never,
        on_object: OnObject = ignore,
    ) -> Grounding:
        """Ask the server; see `Reasoner.reason`."""
        reader = self._dialect.reader(frame.width, frame.height, self._parser, query.text)
        most = MOST_CHARACTERS_PER_TOKEN * self._request['max_tokens']
        reply = Reply(StreamReporter(reader, on_text, on_object), most)
        self._response = None
        self._unconnected = ''
        return self._loop.run_until_complete(
            self._watched(self._converse(frame, query, reply, cancelled), reply, cancelled)
        )

    def close(self) -> None:
        """Close the connections."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _end(self) -> None:
        await self._client.close()
        await _settle()
        await self._loop.shutdown_asyncgens()
        await _settle()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await _settle()

    async def _watched(
        self, work: Coroutine[Any, Any, T], reply: Reply, cancelled: IsCancelled
    ) -> T:
        """Await the work, until the time limit is over or somebody cancels."""
        deadline = time.monotonic() + (self._time_limit or float('inf'))
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=POLL))[0]:
                if cancelled():
                    raise Cancelled(reply.narrator.text)
                self._stop_a_flood()
                if time.monotonic() > deadline:
                    if self._unconnected:
                        raise unreachable(self._url, self._unconnected)
                    raise ReasonerTimeout(
                        f'{self.name} did not finish within {self._time_limit:g} s; it had '
                        f'written {reply.tokens} tokens.',
                        reply.narrator.text,
                    )
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=CLOSE_LIMIT)
            await _settle()

    async def _note(self, response: Any) -> None:
        """Hear of each response before its body is read."""
        self._response = response
        self._unconnected = ''
        if 'Content-Encoding' in response.headers:
            raise ReasonerUnavailable(
                f'{self._url} sends its answer compressed, which nobody asked for: it could grow '
                'beyond all bounds. Switch the compression off, also in a proxy before it.'
            )

    def _stop_a_flood(self) -> None:
        """Raise ReasonerUnavailable when a response has become larger than any answer."""
        if self._response is not None and self._response.num_bytes_downloaded > MOST_BYTES:
            raise ReasonerUnavailable(
                f'{self._url} sent more than {MOST_BYTES // 1_000_000} MB for one answer, so it '
                'is not heard any further.'
            )

    async def _converse(
        self, frame: Frame, query: Query, reply: Reply, cancelled: IsCancelled
    ) -> Grounding:
        """Send the query and read what comes until the answer is there."""
        seen = resize_for_model(self._dialect, frame.image)
        prompt = self._dialect.prompt(query.text)
        started = time.monotonic()
        try:
            async with await self._ask(user_message(seen, prompt)) as stream:
                async for chunk in stream:
                    if cancelled():
                        raise Cancelled(reply.narrator.text)
                    if not take(chunk, reply):
                        break
        except (openai.APIError, json.JSONDecodeError) as error:
            text = reply.narrator.text
            raise explained(error, self._url, self._key_env, text, self._secrets) from error
        size = seen.shape[1], seen.shape[0]
        self._count_limit = max(COUNT_LIMIT, time.monotonic() - started)
        try:
            grounding = self._grounding(reply)
        except MalformedAnswer:
            # A model that sees another image than it was trained to see may write anything.
            if reply.finish:
                await self._resizing.check(size, prompt, reply.charged)
            raise
        if grounding.objects:
            await self._resizing.check(size, prompt, reply.charged)
        return grounding

    async def _count_tokens(self, image: RgbImage, text: str) -> int | None:
        """Return what a text with an image costs, in tokens; None where the server cannot say."""
        fixed = {key: value for key, value in self._request.items() if key != 'response_format'}
        request = fixed | {'messages': user_message(image, text), 'max_tokens': 1}
        whole = {key: value for key, value in request.items() if not key.startswith('stream')}
        asked = [request, whole] if 'stream_options' in request else [whole]
        for one in asked:
            try:
                charged = await asyncio.wait_for(self._charged(one), self._count_limit)
            except asyncio.TimeoutError:
                return None
            # Whatever goes wrong here has not gone wrong with the answer.
            except (openai.APIError, ValueError, TypeError, AttributeError):
                continue
            if charged:
                return charged
        return None

    async def _charged(self, request: dict[str, Any]) -> int:
        """Return the prompt tokens that a server counts for a request; 0 where it does not."""
        reply = await self._client.chat.completions.create(**request)
        if 'stream' not in request:
            return int(reply.usage.prompt_tokens)
        charged = 0
        async with reply as stream:
            async for chunk in stream:
                charged = getattr(chunk.usage, 'prompt_tokens', None) or charged
        return charged

    async def _ask(self, messages: Any) -> Any:
        """Start the completion; a server that cannot count tokens is asked again without."""
        try:
            return await self._patiently(
                lambda: self._client.chat.completions.create(messages=messages, **self._request)
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            refused = 'stream_options' in f'{error.message} {error.body}'
            if not refused or 'stream_options' not in self._request:
                raise
            del self._request['stream_options']
        return await self._ask(messages)

    async def _patiently(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call, and again after ever longer pauses while there is no connection."""
        for pause in RETRY_AFTER:
            try:
                return await call()
            except openai.APITimeoutError:
                raise
            except openai.APIConnectionError as error:
                self._unconnected = hidden(str(error.__cause__ or error), self._secrets)
                _logger.info('%s: %s Next attempt in %g s', self._url, error, pause)
                await asyncio.sleep(pause)
        return await call()

    def _grounding(self, reply: Reply) -> Grounding:
        """Return what a stream that has ended says."""
        text = reply.narrator.text
        if not reply.finish and not reply.narrator.complete:
            if not text:
                raise not_compatible(self._url)
            raise MalformedAnswer(f'{self._url} broke off in the middle of it', text)
        try:
            return reply.narrator.finish(reply.tokens)
        except MalformedAnswer as error:
            if reply.finish != 'length':
                raise
            limit = self._request['max_tokens']
            reason = f'{error.reason}; the server stopped at {limit} tokens (max_new_tokens)'
            raise MalformedAnswer(reason, text) from error

    async def _served(self, wanted: str) -> tuple[str, str]:
        """Return the name of the model to ask and what its server calls itself."""
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
        """Return who owns each model that the server lists; nothing if it has no list."""
        try:
            listing = await asyncio.wait_for(
                self._unflooded(
                    self._patiently(lambda: self._client.get('/models', cast_to=object))
                ),
                LISTING_LIMIT,
            )
        except asyncio.TimeoutError as error:
            raise unreachable(self._url, f'silent for {LISTING_LIMIT:g} s') from error
        except openai.NotFoundError:
            return {}
        except (openai.APIError, json.JSONDecodeError) as error:
            raise explained(error, self._url, self._key_env, '', self._secrets) from error
        entries = listing.get('data') if isinstance(listing, dict) else None
        if not isinstance(entries, list):
            raise not_compatible(self._url)
        return {
            str(entry['id']): str(entry.get('owned_by', ''))
            for entry in entries
            if isinstance(entry, dict) and 'id' in entry
        }

    async def _unflooded(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the work as long as its response is no larger than it may be."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=POLL))[0]:
                self._stop_a_flood()
            return task.result()
        finally:
            task.cancel()

    async def _constraint(self) -> dict[str, Any]:
        """Return the format to hold answers to, once the server has shown that it does."""
        try:
            constraint = answer_format(self._dialect)
        except ValueError as error:
            raise ReasonerUnavailable(str(error)) from error
        try:
            if await asyncio.wait_for(is_honoured(self._constrained), CONSTRAINT_LIMIT):
                return constraint
            cause = 'it writes something else'
        except asyncio.TimeoutError:
            cause = f'no answer within {CONSTRAINT_LIMIT:g} s'
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            cause = hidden(quoted(error.body or error.message), self._secrets)
        except (openai.APIError, json.JSONDecodeError) as error:
            raise explained(error, self._url, self._key_env, '', self._secrets) from error
        raise ReasonerUnavailable(
            f'{self._url} does not hold an answer to the format that it is asked for ({cause}); '
            'vLLM and SGLang do, without a --reasoning-parser. Switch constrain_answer off.'
        )

    async def _constrained(self, form: dict[str, Any], tokens: int) -> str:
        """Return what the model writes in a format."""
        reply = await self._client.chat.completions.create(
            model=self._model,
            messages=[{'role': 'user', 'content': 'What do you see?'}],
            response_format=cast(Any, form),
            max_tokens=tokens,
            temperature=0.0,
        )
        choices = getattr(reply, 'choices', None)
        return (choices[0].message.content or '') if choices else ''

    def _key(self, address: SplitResult) -> str:
        if self._key_env and not _VARIABLE.fullmatch(self._key_env):
            # Not quoted: it may be the key itself.
            raise ReasonerUnavailable(
                'api_key_env is no name of an environment variable: give the name of the variable '
                'that holds the key, never the key itself.'
            )
        # A file's line end is easily read along with it.
        key = os.environ.get(self._key_env, '').strip() if self._key_env else ''
        if not (key.isascii() and key.isprintable()):
            # Refused here, for the HTTP library's own error would quote it.
            raise ReasonerUnavailable(
                f'The key in the environment variable {self._key_env} cannot be sent: it holds a '
                'line end or a letter that is not ASCII. Set it anew.'
            )
        if key and address.scheme == 'http' and address.hostname not in LOCAL:
            _logger.warning('The key in %s travels unencrypted to %s', self._key_env, self._url)
        return key or NO_KEY


async def _settle() -> None:
    """Let what a stream has left in the event loop come to its end.

    A generator that is dropped closes in a task of its own, a step later, and drops the generator
    below it. Tasks that are still there when the loop stops are destroyed while they are pending.
    """
    deadline = time.monotonic() + CLOSE_LIMIT
    quiet = 0
    while quiet < 2 and time.monotonic() < deadline:
        quiet += 1
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest, timeout=CLOSE_LIMIT)
            quiet = 0
        await asyncio.sleep(0)
