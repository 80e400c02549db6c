"""Errors of a served model, each naming the server, the cause and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
import json

import openai

from segzero_ros.reasoning.credentials import MASK
from segzero_ros.types import MalformedAnswer, ReasonerUnavailable, SegZeroError

_LONGEST_QUOTE = 300


def explained(
    error: openai.APIError | json.JSONDecodeError,
    url: str,
    key_env: str,
    text: str,
    secrets: Sequence[str] = (),
) -> SegZeroError:
    """Return the error to raise for what the client raised.

    Args:
        error: what it raised.
        url: the server's address.
        key_env: the environment variable that should hold the key.
        text: what the model had written by then.
        secrets: what must not be repeated, though a server may: its key, a password.
    """
    if isinstance(error, openai.APIStatusError):
        return ReasonerUnavailable(hidden(_refusal(error, url, key_env), secrets))
    if isinstance(error, openai.APIConnectionError):
        if text:
            return MalformedAnswer(f'the connection to {url} broke in the middle of it', text)
        return unreachable(url, hidden(str(error.__cause__ or error), secrets))
    if isinstance(error, openai.APIError):
        said = hidden(quoted(error.body or error.message), secrets)
        return ReasonerUnavailable(
            f'{url} failed while it was answering: {said}. Its log says more.'
        )
    if text:
        return MalformedAnswer(f'{url} sent something that is no JSON ({error})', text)
    return not_compatible(url)


def unreachable(url: str, cause: str) -> ReasonerUnavailable:
    """Return the error for a server that cannot be reached."""
    return ReasonerUnavailable(
        f'No server answers at {url} ({cause}). Start one (docs/serving.md), set base_url to '
        'where it is, or open the way to it.'
    )


def not_compatible(url: str) -> ReasonerUnavailable:
    """Return the error for a server that speaks something else."""
    return ReasonerUnavailable(
        f'{url} answers, but not as an OpenAI-compatible API does. Is base_url right '
        '(mostly …/v1)?'
    )


def hidden(text: str, secrets: Sequence[str]) -> str:
    """Return text without the secrets that somebody repeats in it."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _refusal(error: openai.APIStatusError, url: str, key_env: str) -> str:
    said = f'{url} says {error.status_code}: {quoted(error.body or error.message)}.'
    if error.status_code in (401, 403):
        return f'{said} Put its key into the environment variable {key_env or "of api_key_env"}.'
    if error.status_code == 404:
        return f'{said} Are base_url (mostly …/v1) and the name of the model right?'
    if error.status_code == 429:
        return f'{said} It has too much to do; ask later, or give it more replicas.'
    if error.status_code < 500:
        return (
            f'{said} It has to serve a vision model with room for one picture and an answer '
            '(docs/serving.md).'
        )
    return f'{said} Its log says more.'


def quoted(body: object) -> str:
    """Return the server's own words, without the wrapping, and not all of a page."""
    while isinstance(body, dict):
        body = body.get('message') or body.get('detail') or body.get('error') or str(body)
    return ' '.join(str(body).split())[:_LONGEST_QUOTE]
