"""The id of a request: in the access log, towards upstreams (`x-request-id`) and in error pages.

A new one is 20 hexadecimal digits: 10 of this process, then a counter. It identifies a request among those of all
nodes; it proves nothing and need not be secret. An id of a client is used only where the configuration trusts it, and
only in the form below: it goes into logs and into requests to upstreams. Short because it is one value.
"""

from __future__ import annotations

import itertools
import re
from typing import Final

from velocity_edge.http.requests import Headers

_VALID: Final = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


class RequestIds:
    """The ids of one worker."""

    def __init__(self, random: bytes) -> None:
        """*random*: 5 random bytes, which tell this process from others."""
        self._prefix = random.hex().encode()
        self._next = itertools.count(1).__next__

    def new(self) -> bytes:
        """Return an id that no other request has."""
        return b"%b%010x" % (self._prefix, self._next() & 0xFF_FFFF_FFFF)

    def of(self, fields: Headers, *, trust: bool) -> bytes:
        """Return the id of a request with these fields: its own where that is valid and trusted, or a new one."""
        if trust:
            given = [value for name, value in fields if name == b"x-request-id"]
            if len(given) == 1 and _VALID.fullmatch(given[0]):
                return given[0]
        return self.new()
