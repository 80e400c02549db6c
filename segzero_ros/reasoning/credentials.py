"""Credentials in an address."""

from __future__ import annotations

import re

MASK = '***'
# User name and password, between the scheme and the host.
_CREDENTIALS = re.compile(r'(?<=//)[^/\s]*@')


def masked(address: str) -> str:
    """Return an address without a user's name and password in it."""
    return _CREDENTIALS.sub(f'{MASK}@', address)
