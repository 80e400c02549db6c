"""VisionReasoner's router as a text model on the reasoner's server."""

from __future__ import annotations

import json

import openai

from segzero_ros.reasoning.answers import StreamReporter
from segzero_ros.reasoning.base import IsCancelled
from segzero_ros.reasoning.chat_stream import Reply
from segzero_ros.reasoning.control_tokens import plain_question
from segzero_ros.reasoning.model_server import MAX_CHARACTERS_PER_TOKEN, ModelServer
from segzero_ros.reasoning.request_options import request_options
from segzero_ros.reasoning.router_prompt import chosen_task, MAX_NEW_TOKENS, router_messages
from segzero_ros.reasoning.words import WordsReader
from segzero_ros.types import MalformedAnswer, RouterFailed, Task


class ServedRouter:
    """Asks a served text model, such as TaskRouter-1.5B; called from the pipeline's thread."""

    def __init__(
        self, server: ModelServer, model: str, time_limit: float = 60.0, seed: int = 0
    ) -> None:
        """Check that the server serves the model.

        Args:
            server: the reasoner's, which closes it.
            model: the served model's name.
            time_limit: most seconds a reply may take; 0 for no limit.
            seed: for servers that sample although the temperature is 0.

        Raises:
            ReasonerUnavailable: it is not served; the text names those that are.
        """
        self._server = server
        self._time_limit = time_limit
        self._request = request_options(MAX_NEW_TOKENS, seed)
        self._request['model'], _ = server.served(model, 'reasoner.router')
        self._name = f'The router {model} at {server.url}'

    def __call__(self, text: str, cancelled: IsCancelled) -> Task:
        """Return the task of a query.

        Raises:
            Cancelled: `cancelled` became True.
            ReasonerTimeout: the time limit was exceeded.
            ReasonerUnavailable: the server cannot be reached.
            RouterFailed: the server answers, but its model does not.
        """
        most = MAX_CHARACTERS_PER_TOKEN * MAX_NEW_TOKENS
        reply = Reply(StreamReporter(WordsReader()), most)
        content = {'messages': router_messages(plain_question(text))}
        work = self._server.stream(content, self._request, reply, cancelled)
        try:
            self._server.run_with_limits(work, reply, cancelled, self._time_limit, self._name)
        except openai.APIConnectionError as error:
            # The reasoner's model is not there either.
            if not reply.reporter.text:
                raise self._server.error(error) from error
            raise RouterFailed(f'{self._name} broke off in the middle of its reply.') from error
        except (openai.APIError, json.JSONDecodeError) as error:
            raise RouterFailed(f'{self._name} failed: {self._server.error(error)}') from error
        except MalformedAnswer as error:
            raise RouterFailed(f'{self._name} failed: {error.reason}.') from error
        if not reply.finish:
            raise RouterFailed(f'{self._name} broke off in the middle of its reply.')
        return chosen_task(reply.reporter.text, text)
