"""A model server's address and API key."""

from __future__ import annotations

import base64
import logging
import os
import re
from urllib.parse import SplitResult, unquote, urlsplit

from segzero_ros.reasoning.credentials import masked
from segzero_ros.types import ReasonerUnavailable

# Servers without a key ignore it, but the client insists on one.
NO_KEY = 'none'
LOCAL = ('localhost', '127.0.0.1', '::1')

_VARIABLE = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')
_logger = logging.getLogger(__name__)


def parse_address(base_url: str) -> SplitResult:
    """Return the parts of a server's address; raise ReasonerUnavailable if it is none."""
    try:
        address = urlsplit(base_url)
        usable = address.scheme in ('http', 'https') and bool(address.hostname)
        _ = address.port
    except ValueError:
        usable = False
    if not usable:
        raise ReasonerUnavailable(
            'The reasoner openai needs the address of a server in base_url, such as '
            f'http://127.0.0.1:8000/v1; {masked(base_url)!r} is none. docs/serving.md starts '
            'servers.'
        )
    return address


def secrets_of(key: str, address: SplitResult) -> tuple[str, ...]:
    """Return the secrets that a server receives and might repeat: the key, the password.

    Args:
        key: the API key, or `NO_KEY`.
        address: the server's address.
    """
    secrets = [] if key == NO_KEY else [key]
    if address.password:
        user, password = unquote(address.username or ''), unquote(address.password)
        # As in the Authorization header of basic authentication.
        coded = base64.b64encode(f'{user}:{password}'.encode()).decode()
        secrets += [address.password, password, coded]
    return tuple(secrets)


def read_api_key(variable: str, address: SplitResult, url: str) -> str:
    """Return the API key in an environment variable; `NO_KEY` if it is unset.

    Args:
        variable: the variable's name; empty for no key.
        address: the server's address.
        url: the same without credentials, for messages.

    Raises:
        ReasonerUnavailable: the name is no variable name, or the key cannot be sent.
    """
    if variable and not _VARIABLE.fullmatch(variable):
        # Not quoted: it may be the key itself.
        raise ReasonerUnavailable(
            'api_key_env is no name of an environment variable: give the name of the variable '
            'that holds the key, never the key itself.'
        )
    # A key that was read from a file often ends in a line break.
    key = os.environ.get(variable, '').strip() if variable else ''
    if not (key.isascii() and key.isprintable()):
        # Refused here, because the HTTP library's own error would quote it.
        raise ReasonerUnavailable(
            f'The key in the environment variable {variable} cannot be sent: it holds a '
            'line end or a letter that is not ASCII. Set it anew.'
        )
    if key and address.scheme == 'http' and address.hostname not in LOCAL:
        _logger.warning('The key in %s travels unencrypted to %s', variable, url)
    return key or NO_KEY
