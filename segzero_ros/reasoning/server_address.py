"""Where a server is, and what of that is secret."""

from __future__ import annotations

import base64
from urllib.parse import SplitResult, unquote, urlsplit

from segzero_ros.reasoning.credentials import masked
from segzero_ros.types import ReasonerUnavailable

# Servers without a key ignore it, but the client insists on one.
NO_KEY = 'none'
LOCAL = ('localhost', '127.0.0.1', '::1')


def parse_address(base_url: str) -> SplitResult:
    """Return the parts of a server's address; without one, nothing may go anywhere."""
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
    """Return what a server is shown and might repeat: the key, or the address's password."""
    secrets = [] if key == NO_KEY else [key]
    if address.password:
        user, password = unquote(address.username or ''), unquote(address.password)
        # It travels in this code, which anybody can read.
        coded = base64.b64encode(f'{user}:{password}'.encode()).decode()
        secrets += [address.password, password, coded]
    return tuple(secrets)
