"""The access log of a worker: which requests get a line (access_lines.py has its forms), written in batches.

`bytes` is the length of the response's body, whether or not the client received all of it. Nothing here blocks: lines
go to a writer with a thread of its own (velocity_edge/text/lines.py).
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from velocity_edge.config.telemetry import AccessLog as Settings
from velocity_edge.http.requests import Address, RequestReceived
from velocity_edge.quic import udp
from workers.serve.access_lines import Access, Formatter, UpstreamTimes, clf_line, extended_line, json_line

__all__ = ["AccessLog", "AccessRule", "UpstreamTimes", "access_lines_lost", "rule_of"]

#: Waking the writing thread costs as much as formatting some lines.
_LINES_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class AccessRule:
    """Which requests are logged, and how."""

    line: Formatter
    #: Share of the requests with a status below 500.
    sample: float = 1.0
    redact: bool = False


class AccessLog:
    """The lines of one worker that are not written yet."""

    def __init__(self, write: Callable[[bytes], None], clock: Callable[[], float]) -> None:
        """*write* takes some lines and must not block; *clock* is wall time in seconds."""
        self._write = write
        self._clock = clock
        self._lines: list[bytes] = []
        #: Above 1 the next request is logged: exactly the sampled share, spread evenly.
        self._due = 0.0
        #: Key of the hashes of addresses; changes with the epoch keys.
        self.salt = b""

    def wants(self, rule: AccessRule, status: int) -> bool:
        """Return whether the next request is logged. To be asked once for each."""
        if status >= 500 or rule.sample >= 1.0:
            return True
        self._due += rule.sample
        if self._due < 1.0:
            return False
        self._due -= 1.0
        return True

    def add(
        self,
        rule: AccessRule,
        event: RequestReceived,
        client: Address | None,
        status: int,
        body_bytes: int,
        started_s: float,
        *,
        request_id: bytes = b"",
        site: str = "",
        proto: str = "h3",
        group: str = "",
        upstream: UpstreamTimes | None = None,
        trace_id: str = "",
    ) -> None:
        """Add the line of a request that was received at *started_s* and answered now."""
        agent = referrer = b""
        for name, value in event.headers:
            if name == b"user-agent":
                agent = value
            elif name == b"referer":
                referrer = value
        now_s = self._clock()
        self._lines.append(
            rule.line(
                Access(
                    now_s,
                    self._hash(client) if rule.redact else _host(client),
                    event.method,
                    event.authority,
                    event.path,
                    status,
                    body_bytes,
                    now_s - started_s,
                    agent,
                    referrer,
                    request_id,
                    site,
                    proto,
                    group,
                    upstream,
                    trace_id,
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

    def _hash(self, client: Address | None) -> str:
        return "-" if client is None else hashlib.blake2b(client[0], key=self.salt, digest_size=8).hexdigest()


def rule_of(settings: Settings) -> AccessRule | None:
    """Return the rule of a configuration; None when nothing is logged."""
    line: Formatter | None = {"off": None, "json": json_line, "clf": clf_line, "extended": extended_line}[
        settings.format
    ]
    return None if line is None else AccessRule(line, settings.sample, settings.redact)


def access_lines_lost(lines: int) -> bytes:
    """Return the line that reports lost lines: the reader of the output was too slow."""
    return b'{"event":"access_lines_lost","lines":%d}\n' % lines


def _host(peer: Address | None) -> str:
    if peer is None:
        return "-"
    address, interface = udp.unscoped(peer[0])
    host = socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
    return f"{host}%{interface}" if interface else host
