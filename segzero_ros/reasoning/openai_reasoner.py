"""Reasoning by a model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp and others.

One streamed chat completion per query, with the prompt and the resized image of the checkpoint's
dialect. Each failure of a server has its own error, and does not affect the next query.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, cast

import openai

from segzero_ros.reasoning.answers import AnswerParser, StreamReporter
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText
from segzero_ros.reasoning.chat_messages import user_message
from segzero_ros.reasoning.chat_stream import Reply
from segzero_ros.reasoning.dialects import Dialect, dialect_named
from segzero_ros.reasoning.dialects.fitting import (
    is_thinking_by_name,
    warn_of_few_tokens,
    warn_of_other_name,
)
from segzero_ros.reasoning.guided_decoding import answer_format, is_honoured
from segzero_ros.reasoning.model_server import MAX_CHARACTERS_PER_TOKEN, ModelServer
from segzero_ros.reasoning.preprocessing import resize_for_model
from segzero_ros.reasoning.request_options import request_options
from segzero_ros.reasoning.resize_check import ResizeCheck
from segzero_ros.reasoning.server_errors import not_compatible, redacted, server_message
from segzero_ros.types import (
    Frame,
    Grounding,
    MalformedAnswer,
    Query,
    ReasonerUnavailable,
    RgbImage,
    Task,
)

# Seconds to count an image's tokens; for a slow server, as long as its answer took.
COUNT_LIMIT = 10.0
# Seconds for the probe of guided decoding, in which a server compiles the grammar once.
CONSTRAINT_LIMIT = 60.0


class OpenAIReasoner:
    """A served model. All calls come from one thread, which runs no event loop of its own.

    Attributes:
        server: the connection, which a router on the same server shares.
    """

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
        self._time_limit = time_limit
        self._constrain_answer = constrain_answer
        self._parser = cast(AnswerParser, answer_parser)
        self.server = ModelServer(base_url, api_key_env)
        try:
            self._dialect = dialect_named(dialect)
            self._dialect.reader(1, 1, self._parser)
        except ValueError as error:
            self.close()
            raise ReasonerUnavailable(str(error)) from error
        self._request = request_options(max_new_tokens, seed, self._dialect.template_options)
        self._count_limit = COUNT_LIMIT
        try:
            self._model, owner = self.server.served(model, '`model`')
            self._request['model'] = self._model
            warn_of_other_name(self._model, self._dialect)
            self._is_thinking = is_thinking_by_name(self._model, self._dialect)
            if self._is_thinking:
                warn_of_few_tokens(self._model, max_new_tokens, self._dialect)
            if constrain_answer:
                self.server.run(self._require_constraint())
            self._resizing = ResizeCheck(self._dialect, self.server.url, owner, self._count_tokens)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The served model and its address."""
        return f'{self._model} at {self.server.url}'

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
        work = self._complete(frame, query, dialect, reply, cancelled)
        return self.server.run_with_limits(work, reply, cancelled, self._time_limit, self.name)

    def close(self) -> None:
        """Close the connections."""
        self.server.close()

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
            await self.server.stream(content, self._request, reply, cancelled)
        except (openai.APIError, json.JSONDecodeError) as error:
            raise self.server.error(error, reply.reporter.text) from error
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
        reply = await self.server.client.chat.completions.create(**request)
        if 'stream' not in request:
            return int(reply.usage.prompt_tokens)
        charged = 0
        async with reply as stream:
            async for chunk in stream:
                charged = getattr(chunk.usage, 'prompt_tokens', None) or charged
        return charged

    def _grounding(self, reply: Reply) -> Grounding:
        """Return the result of a stream that has ended."""
        text = reply.reporter.text
        if not reply.finish and not reply.reporter.complete:
            if not text:
                raise not_compatible(self.server.url)
            raise MalformedAnswer(f'{self.server.url} broke off in the middle of it', text)
        try:
            return reply.reporter.finish(reply.tokens)
        except MalformedAnswer as error:
            if reply.finish != 'length':
                raise
            limit = self._request['max_tokens']
            reason = f'{error.reason}; the server stopped at {limit} tokens (max_new_tokens)'
            raise MalformedAnswer(reason, text) from error

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
            cause = redacted(server_message(error.body or error.message), self.server.secrets)
        except (openai.APIError, json.JSONDecodeError) as error:
            raise self.server.error(error) from error
        raise ReasonerUnavailable(
            f'{self.server.url} does not hold an answer to the format that it is asked for '
            f'({cause}); vLLM and SGLang do, without a --reasoning-parser. Switch '
            'server.constrain_answer off.'
        )

    async def _constrained(self, form: dict[str, Any], tokens: int) -> str:
        """Return the model's text under a `response_format`."""
        reply = await self.server.client.chat.completions.create(
            model=self._model,
            messages=[{'role': 'user', 'content': 'What do you see?'}],
            response_format=cast(Any, form),
            max_tokens=tokens,
            temperature=0.0,
        )
        choices = getattr(reply, 'choices', None)
        return (choices[0].message.content or '') if choices else ''
