"""Responses that may be shared (pipeline.py): the same question gets the same response for the rest of the second.

A response from here needs no routing, no request object and no access to the file. All are dropped when the second ends
(which also keeps the `date` field correct) and by a new revision; they are bounded in between. Requests with one of the
fields in `_DEMANDING` are never answered from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from velocity_edge.http.requests import FileRange, RequestReceived
from workers.http import Headers, Response

#: Ranges, preconditions, and `host`, which must be compared with :authority first (RFC 9114 section 4.3.1).
_DEMANDING: Final = frozenset(
    (b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"host")
)
#: Bounds of one second. Most bodies are shared with the static handler's cache.
MAX_ANSWERS: Final = 4096
MAX_BYTES: Final = 32 * 1024 * 1024

#: :authority, :path, Accept-Encoding.
Key = tuple[bytes, bytes, bytes | None]


class SharedAnswers:
    """The responses of the present second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """*clock* is wall time in seconds."""
        self._clock = clock
        self._second = 0
        self._answers: dict[Key, tuple[Headers, bytes | FileRange, str]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def renew(self) -> None:
        """Drop everything if a new second has begun."""
        second = int(self._clock())
        if second != self._second:
            self.forget()
            self._second = second

    def forget(self) -> None:
        """Drop everything."""
        self._answers = {}
        self._bytes = 0

    @staticmethod
    def key(event: RequestReceived) -> Key | None:
        """Return the key of a request's response; None for a request whose response is not shared."""
        if not event.fin or event.method != b"GET" or event.fields_too_large:
            return None
        coding = None
        for name, value in event.headers:
            if name in _DEMANDING:
                return None
            if name == b"accept-encoding":
                coding = value if coding is None else coding + b", " + value
        return event.authority, event.path, coding

    def get(self, key: Key) -> tuple[Headers, bytes | FileRange, str] | None:
        """Return the fields and the body of a 200, and its site."""
        return self._answers.get(key)

    def remember(self, key: Key, response: Response, site: str) -> None:
        """Keep a 200 that may be shared."""
        body = response.body
        if not isinstance(body, bytes | FileRange):
            return
        weight = len(body) if isinstance(body, bytes) else 0
        if len(self._answers) >= MAX_ANSWERS or self._bytes + weight > MAX_BYTES:
            self.forget()
        self._answers[key] = (response.headers, body, site)
        self._bytes += weight
