"""A proxy's servers and what happens to requests on the way: the keys of `content.proxies` and `action: {type: proxy}`.

How requests are spread over several servers is in balancing.py, how a server is written in upstream_url.py. Limits and
time-outs are those of one worker towards one server.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from velocity_edge.config.balancing import FieldName, Health, LoadBalancing, Queue, Retries
from velocity_edge.config.section import Need, Problem, Section
from velocity_edge.config.upstream_url import UpstreamUrl, Url, parse_upstream
from velocity_edge.config.values import AbsolutePath, Duration, Hostname, OneOrMore, RoutePath, Size

#: Fields of a connection or of the framing of a message: an edge that lets them be set can be desynchronised from its
#: upstream (RFC 9110 section 7.6.1, RFC 9112 section 6).
_FRAMING: Final = frozenset(
    ("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)

#: How this machine resolves names; a worker cannot open them later.
RESOLV_CONF: Final = Path("/etc/resolv.conf")
HOSTS: Final = Path("/etc/hosts")
#: Where systems keep the certificate authorities that they trust: Debian and Alpine, Fedora. The first that exists.
SYSTEM_ROOTS: Final = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))

FieldValue = Annotated[str, Field(pattern=r"^[ -~]*$", max_length=8192)]


class Timeouts(Section):
    """Time-outs towards an upstream."""

    connect_s: Duration = Field(default=10.0, alias="connect")
    """Until the connection is established."""
    response_s: Duration = Field(default=30.0, alias="response")
    """Until the response begins, after the request was sent."""
    idle_s: Duration = Field(default=90.0, alias="idle")
    """Between two chunks of a body, either way; also of a WebSocket."""

    def problems(self) -> Iterator[Problem]:
        """Yield a time-out of zero."""
        for key in ("connect", "response", "idle"):
            if not getattr(self, f"{key}_s"):
                yield (key,), "cannot be 0: every request would fail"


class UpstreamTls(Section):
    """How a server is reached by TLS (`https://`)."""

    server_name: Hostname | None = None
    """Name that is sent (SNI) and that its certificate must have. Unset: the host of the address."""
    ca: AbsolutePath | None = None
    """Certificate authorities that may have signed its certificate (PEM). Unset: those of this system."""
    certificate: AbsolutePath | None = None
    """Certificate chain that is shown to the server (PEM), for mutual TLS."""
    private_key: AbsolutePath | None = None
    """Private key of `certificate` (PEM, not encrypted)."""
    verify: bool = True
    """Verify its certificate. With `false`, anybody on the way can read and change everything."""

    def problems(self) -> Iterator[Problem]:
        """Yield half a key pair, and authorities that nobody asks."""
        if (self.certificate is None) != (self.private_key is None):
            missing = "private_key" if self.private_key is None else "certificate"
            yield (missing,), "cannot be left out: certificate and private_key belong together"
        if self.ca is not None and not self.verify:
            yield ("ca",), "cannot be used without verification: leave out `verify: false`"
        if self.server_name is not None and self.server_name.startswith("*"):
            yield ("server_name",), f"cannot use {self.server_name!r}: must be one host name"


class UpstreamServer(Section):
    """One of several servers. An entry that is only text is its `url`."""

    url: Url
    """Address of the server, as in `upstream`."""
    weight: Annotated[int, Field(ge=0, le=1000)] = 1
    """Its share of the requests. 0: none, unless no other server is left."""
    max_connections: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Its own limit in place of the proxy's `max_connections`."""


class HeaderChanges(Section):
    """Changes of a header section: first `remove`, then `set`, then `add`."""

    set: dict[FieldName, FieldValue] = {}
    """Fields in place of those of the same name."""
    add: dict[FieldName, FieldValue] = {}
    """Fields beside those of the same name."""
    remove: Annotated[list[FieldName], OneOrMore] = []
    """Names of fields that are not passed on."""

    def problems(self) -> Iterator[Problem]:
        """Yield fields that only the node itself can set."""
        for key in ("set", "add", "remove"):
            for name in getattr(self, key):
                if name in _FRAMING:
                    yield (key,), f"cannot change {name!r}: it belongs to the connection, and the node sets it"


class ProxyHeaders(Section):
    """Fields that are changed on the way."""

    request: HeaderChanges = HeaderChanges()
    response: HeaderChanges = HeaderChanges()


def _servers(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return value
    return [{"url": entry} if isinstance(entry, str) else entry for entry in value]


class Upstream(Section):
    """Servers to which requests are forwarded."""

    upstream: Url | None = None
    """Address of the server: `http://127.0.0.1:8080`, `https://app.example.com`, `h2c://[::1]:8080` (HTTP/2 without
    TLS) or `unix:/run/app.sock`. A path at its end is put in front of each request's path. A name is resolved again
    when its records expire."""
    upstreams: Annotated[list[UpstreamServer], BeforeValidator(_servers), Field(max_length=256)] = []
    """Several servers in place of `upstream`."""
    preserve_host: bool = False
    """Forward the client's host name instead of the upstream's."""
    streaming: bool = True
    """Bodies are always forwarded chunk by chunk as they arrive."""
    protocol: Literal["auto", "h1", "h2", "h2c"] = "auto"
    """`h1`, `h2` (by TLS), `h2c` (HTTP/2 without TLS), or `auto`: what the server chooses (ALPN) for `https://`, HTTP/2
    for `h2c://`, else HTTP/1.1."""
    timeouts: Timeouts = Timeouts()
    tls: UpstreamTls | None = None
    lb: LoadBalancing = LoadBalancing()
    health: Health = Health()
    retries: Retries = Retries()
    queue: Queue = Queue()
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """Connections to each server, per worker. More requests than these can carry wait in the queue."""
    max_idle: Annotated[int, Field(ge=0, le=100_000)] = 256
    """Connections to each server that are kept open without a request, per worker."""
    keepalive_s: Duration = Field(default=55.0, alias="keepalive")
    """How long such a connection is kept: less than the server keeps it, which would close it in the moment of use."""
    tcp_keepalive_s: Duration = Field(default=60.0, alias="tcp_keepalive")
    """Time between the probes by which a dead connection is found while it has nothing to send."""
    max_requests_per_connection: Annotated[int, Field(ge=0)] = 0
    """Requests after which a connection is replaced. 0: any number."""
    max_request_body_bytes: Size | None = Field(default=None, alias="max_request_body")
    """Larger request bodies get a 413. Unset: `server.limits.max_request_body`. 0: no limit."""
    headers: ProxyHeaders = ProxyHeaders()
    strip_prefix: RoutePath | None = None
    """Prefix that is taken from the path before it is forwarded, such as /api."""
    rewrite: RoutePath | None = None
    """Path that is forwarded in place of the request's. `{path}` stands for the request's (after `strip_prefix`),
    `{name}` for a parameter of the route. The query stays."""
    via: bool = True
    """Add `via` to requests (RFC 9110 section 7.6.3)."""
    forwarded: bool = False
    """Add `forwarded` (RFC 7239) beside the x-forwarded fields."""
    websocket: bool = True
    """Forward WebSocket connections (RFC 9220)."""

    def servers(self) -> list[tuple[UpstreamServer, UpstreamUrl]]:
        """Return the servers, of `upstream` or `upstreams`, with their addresses."""
        named = [UpstreamServer(url=self.upstream)] if self.upstream is not None else self.upstreams
        return [(server, parse_upstream(server.url)) for server in named]

    def needs(self) -> Iterator[Need]:
        """Yield the files that must be read before workers lose their rights, and the keys that name them."""
        for name in ("ca", "certificate", "private_key"):
            path = getattr(self.tls, name) if self.tls is not None else None
            if path is not None:
                yield Need(path, "file", ("tls", name))
        key = "upstream" if self.upstream is not None else "upstreams"
        urls = [url for _, url in self.servers()]
        if any(url.is_name for url in urls):
            yield Need(RESOLV_CONF, "file", (key,), required=False)
            yield Need(HOSTS, "file", (key,), required=False)
        tls = self.tls or UpstreamTls()
        if any(url.scheme == "https" for url in urls) and tls.verify and tls.ca is None:
            for system_roots in SYSTEM_ROOTS:
                yield Need(system_roots, "file", (key,), required=False)

    def problems(self) -> Iterator[Problem]:
        """Yield servers that are missing, given twice, or contradict `protocol` and `tls`."""
        if self.upstream is not None and self.upstreams:
            yield ("upstreams",), "cannot be combined with upstream: give all servers here"
            return
        if self.upstream is None and not self.upstreams:
            yield (
                ("upstream",),
                "cannot be left out: must be an address such as http://127.0.0.1:8080, or use upstreams",
            )
            return
        if not self.streaming:
            yield ("streaming",), "cannot be false: bodies are never buffered; leave it out"
        seen: set[str] = set()
        schemes: set[str] = set()
        for i, (server, url) in enumerate(self.servers()):
            where = ("upstream",) if self.upstream is not None else ("upstreams", str(i), "url")
            if server.url in seen:
                yield where, f"cannot use {server.url} twice: give it a weight"
            seen.add(server.url)
            schemes.add(url.scheme)
            yield from ((where, text) for text in self._contradictions(url))
        if self.tls is not None and "https" not in schemes:
            yield ("tls",), "cannot be used without TLS: expected an address that begins with https://"
        if self.rewrite is not None and self.strip_prefix is not None and "{path}" not in self.rewrite:
            yield ("strip_prefix",), "cannot have an effect: rewrite has no {path}"

    def _contradictions(self, url: UpstreamUrl) -> Iterator[str]:
        if url.scheme == "h2c" and self.protocol not in ("auto", "h2c"):
            yield f"cannot be combined with protocol {self.protocol!r}: h2c:// is HTTP/2 without TLS"
        if url.scheme == "https" and self.protocol == "h2c":
            yield "cannot be combined with protocol 'h2c': expected protocol 'h2' for HTTP/2 by TLS"
        if url.scheme in ("http", "unix") and self.protocol == "h2":
            yield "cannot be combined with protocol 'h2': expected https://, or protocol 'h2c' without TLS"
