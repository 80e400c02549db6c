"""What an address holds that nobody else may read."""

from __future__ import annotations

import re

MASK = '***'
# What stands between the scheme and the host of an address: a user's name and password.
_CREDENTIALS = re.compile(r'(?<=//)[^/\s]*@')


def masked(address: str) -> str:
    """Return an address without a user's name and password in it."""
    return _CREDENTIALS.sub(f'{MASK}@', address)
