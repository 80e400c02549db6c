"""Errors of a served model; each names the server, the cause and a hint."""

from __future__ import annotations

from collections.abc import Sequence
import json

import openai

from segzero_ros.reasoning.credentials import MASK
from segzero_ros.types import MalformedAnswer, ReasonerUnavailable, SegZeroError

_MAX_QUOTE_LENGTH = 300


def to_reasoner_error(
    error: openai.APIError | json.JSONDecodeError,
    url: str,
    key_env: str,
    text: str,
    secrets: Sequence[str] = (),
) -> SegZeroError:
    """Convert an error of the OpenAI client to one of the reasoner.

    Args:
        error: the client's error.
        url: the server's address.
        key_env: the environment variable that should hold the key.
        text: the answer so far.
        secrets: to redact in the message: the key, a password.
    """
    if isinstance(error, openai.APIStatusError):
        return ReasonerUnavailable(redacted(_refusal(error, url, key_env), secrets))
    if isinstance(error, openai.APIConnectionError):
        if text:
            return MalformedAnswer(f'the connection to {url} broke in the middle of it', text)
        return unreachable(url, redacted(str(error.__cause__ or error), secrets))
    if isinstance(error, openai.APIError):
        message = redacted(server_message(error.body or error.message), secrets)
        return ReasonerUnavailable(
            f'{url} failed while it was answering: {message}. Its log says more.'
        )
    if text:
        return MalformedAnswer(f'{url} sent something that is no JSON ({error})', text)
    return not_compatible(url)


def unreachable(url: str, cause: str) -> ReasonerUnavailable:
    """Return the error for a server that cannot be reached.

    Args:
        url: the server's address.
        cause: the reason.
    """
    return ReasonerUnavailable(
        f'No server answers at {url} ({cause}). Start one (docs/serving.md), set base_url to '
        'where it is, or open the way to it.'
    )


def not_compatible(url: str) -> ReasonerUnavailable:
    """Return the error for a server with another API."""
    return ReasonerUnavailable(
        f'{url} answers, but not as an OpenAI-compatible API does. Is base_url right '
        '(mostly …/v1)?'
    )


def redacted(text: str, secrets: Sequence[str]) -> str:
    """Return a text with the secrets masked.

    Args:
        text: such as a server's message.
        secrets: the texts to mask.
    """
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _refusal(error: openai.APIStatusError, url: str, key_env: str) -> str:
    text = f'{url} says {error.status_code}: {server_message(error.body or error.message)}.'
    if error.status_code in (401, 403):
        return f'{text} Put its key into the environment variable {key_env or "of api_key_env"}.'
    if error.status_code == 404:
        return f'{text} Are base_url (mostly …/v1) and the name of the model right?'
    if error.status_code == 429:
        return f'{text} It has too much to do; ask later, or give it more replicas.'
    if error.status_code < 500:
        return (
            f'{text} It has to serve a vision model with room for one picture and an answer '
            '(docs/serving.md).'
        )
    return f'{text} Its log says more.'


def server_message(body: object) -> str:
    """Return the message in a server's error body, shortened."""
    while isinstance(body, dict):
        body = body.get('message') or body.get('detail') or body.get('error') or str(body)
    return ' '.join(str(body).split())[:_MAX_QUOTE_LENGTH]
