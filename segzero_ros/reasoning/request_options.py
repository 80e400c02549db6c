"""The fixed options of a query to a server, and doing without those that a server refuses."""

from __future__ import annotations

from collections.abc import Mapping
import logging
from typing import Any

# The field for the chat template's own options, which vLLM, SGLang and llama.cpp take; the OpenAI
# client sends what it does not know itself as its `extra_body`.
_TEMPLATE_OPTIONS = 'chat_template_kwargs'
_EXTRA = 'extra_body'
_USAGE = 'stream_options'

_logger = logging.getLogger(__name__)


def request_options(
    max_new_tokens: int, seed: int, template_options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the options of each completion, by the names of the OpenAI client.

    Args:
        max_new_tokens: most tokens an answer may have.
        seed: for servers that sample although the temperature is 0.
        template_options: of the dialect's chat template.
    """
    options: dict[str, Any] = {
        'stream': True,
        'max_tokens': max_new_tokens,
        'temperature': 0.0,
        'seed': seed,
        _USAGE: {'include_usage': True},
    }
    if template_options:
        options[_EXTRA] = {_TEMPLATE_OPTIONS: dict(template_options)}
    return options


def drop_refused(options: dict[str, Any], refusal: str, url: str) -> bool:
    """Remove the option that a server refuses; return whether there was one to do without.

    Args:
        options: from `request_options`; is changed.
        refusal: the server's message.
        url: its address, for the log.
    """
    if _USAGE in refusal and _USAGE in options:
        del options[_USAGE]
        return True
    if _TEMPLATE_OPTIONS in refusal and _EXTRA in options:
        del options[_EXTRA]
        _logger.warning(
            '%s takes no %s, so its model may think for thousands of tokens before it answers: '
            'switch the thinking off at the server, or raise reasoner.max_new_tokens '
            '(docs/serving.md).',
            url,
            _TEMPLATE_OPTIONS,
        )
        return True
    return False
