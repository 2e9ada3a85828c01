"""Requests and responses, as handlers and middleware see them.

Fields are bytes as the engine delivered them: most are never looked at. Handlers and middleware are described in
pipeline.py; who calls them and what happens when one raises is decided in serve/exchanges.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from velocity_edge.http.requests import Address, FileRange, UpstreamEnded
from workers.body import Body

Headers = Sequence[tuple[bytes, bytes]]

#: Application error codes of HTTP/3 that workers use (RFC 9114 section 8.1).
H3_NO_ERROR: Final = 0x100
H3_INTERNAL_ERROR: Final = 0x102
H3_EXCESSIVE_LOAD: Final = 0x107

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


class BodyCutShort(Exception):
    """The body of a response cannot be sent to its announced end: a file was changed, or a disk fails. Not a bug."""


class Request:
    """One HTTP request. `path` is raw (percent-encoded, without the query); `host` is lower case, without the port."""

    __slots__ = (
        "authority",
        "body",
        "claims",
        "client",
        "early",
        "headers",
        "host",
        "id",
        "inform",
        "method",
        "params",
        "path",
        "peer",
        "protocol",
        "query",
        "scheme",
        "trace",
        "upstream",
        "upstream_drop",
        "upstream_fields",
    )

    def __init__(
        self,
        method: bytes,
        authority: bytes,
        target: bytes,
        headers: Headers = (),
        *,
        scheme: bytes = b"https",
        peer: Address | None = None,
        body: Body | None = None,
        early: bool = False,
        protocol: bytes = b"",
    ) -> None:
        """*target* is the :path pseudo-header: path and query. *protocol*: of an extended CONNECT (RFC 9220)."""
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.host = host_of(authority)
        self.path, _, self.query = target.partition(b"?")
        self.headers = headers
        self.peer = peer
        #: Who asks: the peer, or whom a trusted proxy names (X-Forwarded-For, Forwarded). Limits and lists use it.
        self.client = peer
        self.body = body or Body(None)
        self.early = early
        self.protocol = protocol
        #: Values of the `{name}` segments of the route's path, decoded.
        self.params: Mapping[str, str] = _NOTHING
        #: What authentication found out about the client (claims of a token, `sub` of basic); None: not asked.
        self.claims: Mapping[str, Any] | None = None
        #: The request id: in the access log, in `x-request-id` towards upstreams, in traces. b"" until it is needed.
        self.id = b""
        #: The trace that it belongs to (serve/trace_context.py); None: there is no collector.
        self.trace: Any = None
        #: What middleware changes in the request that goes to an upstream: fields added, names removed.
        self.upstream_fields: list[tuple[bytes, bytes]] = []
        self.upstream_drop: list[bytes] = []
        #: Sends an informational response (1xx) before the final one, where there is somebody to send it to.
        self.inform: Callable[[int, Headers], None] | None = None
        #: For the access log: the server of a proxy's last attempt, how that ended, and the number of attempts.
        self.upstream: tuple[str, UpstreamEnded, int] | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return the field's value, several lines joined by a comma (RFC 9110 section 5.3); None when absent."""
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values) if values else None


@dataclass(frozen=True, slots=True)
class HeadEdit:
    """Changes of a response's header section, whatever produces it. Names in lower case. Applied in this order."""

    remove: frozenset[bytes] = frozenset()
    #: Replace all fields of that name.
    set: tuple[tuple[bytes, bytes], ...] = ()
    #: In addition to others of that name (set-cookie, vary).
    add: tuple[tuple[bytes, bytes], ...] = ()
    #: Only where there is none of that name.
    default: tuple[tuple[bytes, bytes], ...] = ()

    def then(self, later: HeadEdit) -> HeadEdit:
        """Return both: this one, then *later*."""
        gone = later.remove | {name for name, _ in later.set}
        kept = tuple(field for field in self.set if field[0] not in gone)
        added = tuple(field for field in self.add if field[0] not in gone)
        default = tuple(field for field in self.default if field[0] not in gone)
        return HeadEdit(self.remove | later.remove, kept + later.set, added + later.add, default + later.default)

    def apply(self, headers: Headers) -> Headers:
        """Return *headers* with the changes."""
        gone = self.remove | {name for name, _ in self.set}
        fields = [field for field in headers if field[0] not in gone] if gone else list(headers)
        fields += self.set
        fields += self.add
        if self.default:
            present = {name for name, _ in fields}
            fields += [field for field in self.default if field[0] not in present]
        return fields


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response. `body` is bytes, a range of a file, or chunks that are produced later."""

    status: int
    headers: Headers = ()
    body: bytes | FileRange | AsyncIterable[bytes] | None = None
    #: The response depends on nothing but the authority, the target and Accept-Encoding of a GET without body, Range
    #: and precondition. It is sent for the same question until the end of the second, if all middleware around the
    #: handler permits it (pipeline.py).
    shared: bool = False
    #: Fields after the body (RFC 9110 section 6.5); called when the body is complete. Not with a complete body.
    trailers: Callable[[], Headers] | None = None

    def edited(self, edit: HeadEdit) -> Response:
        """Return the response with the changes of *edit*."""
        return replace(self, headers=edit.apply(self.headers))


#: Edits, by identity, and what they are together: most requests of a route have the same ones within a second.
_COMBINED: dict[tuple[int, ...], tuple[tuple[HeadEdit, ...], HeadEdit]] = {}
_MOST_COMBINED: Final = 256


class Forward:
    """An upstream answers: what a proxy's handler returns where the engine forwards by itself (http/upstreams.py).

    Middleware sees it in place of a `Response`; it can change the head of the response, not the body
    (`Middleware.reads_body`).
    """

    __slots__ = ("edits", "request", "route")

    def __init__(self, request: Request, route: Any, *edits: HeadEdit) -> None:
        """*route* chooses an upstream for each attempt and is told how it ended (workers/proxy)."""
        self.request = request
        self.route = route
        self.edits = edits

    def edited(self, edit: HeadEdit) -> Forward:
        """Return it with the changes of *edit* after those that it has."""
        return Forward(self.request, self.route, *self.edits, edit)

    @property
    def edit(self) -> HeadEdit:
        """All changes of the response's head."""
        if len(self.edits) == 1:
            return self.edits[0]
        key = tuple(map(id, self.edits))
        found = _COMBINED.get(key)
        if found is not None:
            return found[1]
        whole = HeadEdit()
        for edit in self.edits:
            whole = whole.then(edit)
        if len(_COMBINED) >= _MOST_COMBINED:
            _COMBINED.clear()
        # The edits are kept with it, so that no other object gets their ids.
        _COMBINED[key] = self.edits, whole
        return whole


Answer = Response | Forward


def host_of(authority: bytes) -> bytes:
    """Return the host of *authority*: lower case, no port, no final dot; IPv6 literals keep their brackets."""
    host = authority.lower()
    if host.startswith(b"["):
        return host[: host.find(b"]") + 1]
    return host.partition(b":")[0].removesuffix(b".")


#: Phrases of RFC 9110 section 15 that differ from RFCs 2616 and 4918; Python's own changed with version 3.13.
_PHRASES = {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}


def phrase(status: int) -> str:
    """Return the reason phrase of *status*, whatever the Python version. Raises `ValueError` for an unknown one."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase


def body_length(body: object) -> int:
    """Return the length of a body that is complete; 0 for chunks that are produced later."""
    if isinstance(body, bytes):
        return len(body)
    return body.length if isinstance(body, FileRange) else 0


def plain(status: int, text: str = "", *headers: tuple[bytes, bytes]) -> Response:
    """Return a short text response; without *text*, the reason phrase."""
    body = f"{text or phrase(status)}\n".encode()
    return Response(status, (TEXT, (b"content-length", b"%d" % len(body)), *headers), body)
