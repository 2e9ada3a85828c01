"""The forms of a line in the access log: JSON, the combined log format, and that with what it lacks.

Data from the client (target, agent, referrer) is escaped: no field can end its quotes or its line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from velocity_edge.text.json_text import json_text

_VERSIONS: Final = {"h3": "HTTP/3", "h2": "HTTP/2", "h1": "HTTP/1.1"}
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class UpstreamTimes:
    """The last attempt of a proxied request, for its log line; from what a proxy leaves in `Request.upstream`."""

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
    #: Address of the client, or the hash in its place.
    client: str
    method: bytes
    authority: bytes
    target: bytes
    status: int
    body_bytes: int
    duration_s: float
    agent: bytes
    referrer: bytes
    request_id: bytes = b""
    site: str = ""
    proto: str = "h3"
    #: Name of the key exchange group; "" when it is unknown.
    group: str = ""
    upstream: UpstreamTimes | None = None
    #: Of the trace that the request belongs to, in hexadecimal.
    trace_id: str = ""


Formatter = Callable[[Access], bytes]


def json_line(access: Access) -> bytes:
    """Return the line as JSON, with the field names of all logs of a node."""
    fields = {
        "time": access.time_s,
        "event": "access",
        "id": access.request_id.decode("latin-1"),
        "peer": access.client,
        "method": access.method.decode("latin-1"),
        "host": access.authority.decode("latin-1"),
        "target": access.target.decode("latin-1"),
        "site": access.site,
        "proto": access.proto,
        "group": access.group,
        "status": access.status,
        "bytes": access.body_bytes,
        "duration_ms": round(access.duration_s * 1000, 3),
        "agent": access.agent.decode("utf-8", "replace"),
        "referrer": access.referrer.decode("utf-8", "replace"),
    }
    if access.trace_id:
        fields["trace_id"] = access.trace_id
    if (upstream := access.upstream) is not None:
        fields["upstream"] = {
            "address": upstream.address,
            "status": upstream.status,
            "connect_ms": round(upstream.connect_s * 1000, 3),
            "head_ms": round(upstream.head_s * 1000, 3),
            "total_ms": round(upstream.total_s * 1000, 3),
            "attempts": upstream.attempts,
        }
    return json_text(fields) + b"\n"


def clf_line(access: Access) -> bytes:
    """Return the line in the combined log format (Apache's and nginx's), in UTC."""
    return f"{_combined(access)}\n".encode()


def extended_line(access: Access) -> bytes:
    """Return the combined format, and what it lacks as name=value."""
    site = _escaped(access.site.encode()) or "-"
    line = (
        f"{_combined(access)} id={_escaped(access.request_id) or '-'} site={site} proto={access.proto} "
        f"rt={access.duration_s:.6f}"
    )
    if (upstream := access.upstream) is not None:
        line += (
            f" upstream={_escaped(upstream.address.encode())} us={upstream.status} uct={upstream.connect_s:.6f} "
            f"uht={upstream.head_s:.6f} urt={upstream.total_s:.6f} tries={upstream.attempts}"
        )
    return f"{line}\n".encode()


def _combined(access: Access) -> str:
    moment = time.gmtime(access.time_s)
    when = (
        f"{moment.tm_mday:02d}/{_MONTHS[moment.tm_mon - 1]}/{moment.tm_year:04d}"
        f":{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d} +0000"
    )
    return (
        f'{access.client} - - [{when}] "{_escaped(access.method)} {_escaped(access.target)} '
        f'{_VERSIONS.get(access.proto, access.proto)}" {access.status} {access.body_bytes} '
        f'"{_escaped(access.referrer) or "-"}" "{_escaped(access.agent) or "-"}"'
    )


def _escaped(value: bytes) -> str:
    """Return *value* in printable ASCII; quotes, backslashes and everything else as \\xNN (nginx's rule)."""
    if value.isascii() and (text := value.decode()).isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(chr(c) if 0x20 <= c < 0x7F and c not in b'"\\' else f"\\x{c:02X}" for c in value)
