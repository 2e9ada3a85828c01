"""A line per response, as JSON or in the Common Log Format's combined form, collected and written in batches.

`bytes` is the length of the response's body, whether or not the client received all of it. Nothing here blocks: lines
go to a writer with a thread of its own (velocity_edge/text/lines.py).

Data from the client (target, agent, referrer) is escaped: no field can end its quotes or its line.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from velocity_edge.http.requests import Address, RequestReceived
from velocity_edge.quic import udp
from velocity_edge.text.json_text import json_text

#: Waking the writing thread costs as much as formatting some lines.
_LINES_AT_ONCE: Final = 256

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class UpstreamTimes:
    """The last attempt of a proxied request, for its log line; a proxy sets it (`Exchange.upstream`)."""

    #: As configured: "10.0.0.3:8080", "unix:/run/app.sock".
    address: str
    #: Of the upstream's response; 0 without one.
    status: int
    #: From the beginning of the attempt: to a connection, to the response head, to its end. 0: not reached.
    connect_s: float
    head_s: float
    total_s: float
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Access:
    """One answered request."""

    time_s: float
    peer: Address | None
    method: bytes
    authority: bytes
    target: bytes
    status: int
    body_bytes: int
    duration_s: float
    agent: bytes
    referrer: bytes


Formatter = Callable[[Access], bytes]


class AccessLog:
    """The lines of one worker that are not written yet."""

    def __init__(self, write: Callable[[bytes], None], clock: Callable[[], float]) -> None:
        """*write* takes some lines and must not block; *clock* is wall time in seconds."""
        self._write = write
        self._clock = clock
        self._lines: list[bytes] = []

    def add(
        self,
        line: Formatter,
        event: RequestReceived,
        peer: Address | None,
        status: int,
        body_bytes: int,
        started_s: float,
    ) -> None:
        """Add the line of a request that was received at *started_s* and answered now."""
        agent = referrer = b""
        for name, value in event.headers:
            if name == b"user-agent":
                agent = value
            elif name == b"referer":
                referrer = value
        now_s = self._clock()
        duration_s = now_s - started_s
        self._lines.append(
            line(
                Access(
                    now_s,
                    peer,
                    event.method,
                    event.authority,
                    event.path,
                    status,
                    body_bytes,
                    duration_s,
                    agent,
                    referrer,
                )
            )
        )
        if len(self._lines) >= _LINES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write the collected lines. Called every second; `add` calls it when there are many."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._write(b"".join(lines))


def formatter(kind: str) -> Formatter | None:
    """Return the formatter for the configuration's word: `json`, `clf`, or None for `off`."""
    return {"off": None, "json": json_line, "clf": clf_line}[kind]


def json_line(access: Access) -> bytes:
    """Return the line as JSON, with the field names of all logs of a node."""
    return (
        json_text(
            {
                "time": access.time_s,
                "event": "access",
                "peer": _host(access.peer),
                "method": access.method.decode("latin-1"),
                "host": access.authority.decode("latin-1"),
                "target": access.target.decode("latin-1"),
                "status": access.status,
                "bytes": access.body_bytes,
                "duration_ms": round(access.duration_s * 1000, 3),
                "agent": access.agent.decode("utf-8", "replace"),
                "referrer": access.referrer.decode("utf-8", "replace"),
            }
        )
        + b"\n"
    )


def clf_line(access: Access) -> bytes:
    """Return the line in the combined log format (Apache's and nginx's), in UTC."""
    moment = time.gmtime(access.time_s)
    when = (
        f"{moment.tm_mday:02d}/{_MONTHS[moment.tm_mon - 1]}/{moment.tm_year:04d}"
        f":{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d} +0000"
    )
    return (
        f'{_host(access.peer)} - - [{when}] "{_escaped(access.method)} {_escaped(access.target)} HTTP/3" '
        f'{access.status} {access.body_bytes} "{_escaped(access.referrer) or "-"}" "{_escaped(access.agent) or "-"}"\n'
    ).encode()


def access_lines_lost(lines: int) -> bytes:
    """Return the line that reports lost lines: the reader of the output was too slow."""
    return b'{"event":"access_lines_lost","lines":%d}\n' % lines


def _host(peer: Address | None) -> str:
    if peer is None:
        return "-"
    address, interface = udp.unscoped(peer[0])
    host = socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
    return f"{host}%{interface}" if interface else host


def _escaped(value: bytes) -> str:
    """Return *value* in printable ASCII; quotes, backslashes and everything else as \\xNN (nginx's rule)."""
    if value.isascii() and (text := value.decode()).isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(chr(c) if 0x20 <= c < 0x7F and c not in b'"\\' else f"\\x{c:02X}" for c in value)
