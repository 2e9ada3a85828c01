"""The resolved configuration: every key, its type, its default and what it means.

The sentences under the fields are the documentation: docs/configuration.md is printed from them (reference.py). A key's
name in the file is the field's alias: `max_age: 24h` in the file is `max_age_s == 86400.0` here.

Which values go together, and what cannot be had yet, is decided in rules.py; how text becomes values, in values.py.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field

from velocity_edge.config.limits import LimitsSection
from velocity_edge.config.values import (
    AbsolutePath,
    Address,
    Duration,
    Hostname,
    Method,
    Network,
    OneOrMore,
    RoutePath,
    parse_address,
)
from velocity_edge.wire.messages import Listener

Profile = Literal["light", "balanced", "secure"]
Permission = Literal["light", "balanced", "secure", "classical"]

_COUNT = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A mapping of the file. Unknown keys are errors, wrong types are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Tls(Section):
    """Which certificates the node shows."""

    certificate: AbsolutePath | None = None
    """Certificate chain, PEM, leaf first. Belongs together with `private_key`."""
    private_key: AbsolutePath | None = None
    """The private key of `certificate`, PEM. Read by the supervisor; workers never open it."""
    self_signed: bool = False
    """Make a certificate and keep it in the state directory. For trying, not for production."""
    names: Annotated[list[Hostname], OneOrMore] = []
    """More names and addresses for the self-signed certificate, beside localhost, the host's name and the sites'."""
    require_ech: bool = False
    """Refuse clients that do not encrypt their ClientHello. (Not built yet.)"""
    client_auth: Literal["none", "request", "require"] = "none"
    """Ask clients for a certificate. (Not built yet.)"""


class Profiles(Section):
    """How strong the cryptography is. Each profile is an order of key exchange groups and cipher suites."""

    default: Profile = "balanced"
    """`light`: X25519MLKEM768 and AES-128 first. `balanced`: X25519MLKEM768. `secure`: SecP384r1MLKEM1024, AES-256."""
    permit: list[Permission] = ["light", "balanced", "secure", "classical"]
    """What clients may get. Without `classical`, a client without post-quantum key exchange is refused."""


class Telemetry(Section):
    """What the node tells about itself."""

    metrics_listen: Address | None = None
    """Address for Prometheus, /livez, /readyz and the status page, such as 127.0.0.1:9300. Nothing: off."""
    structured_logs: bool = False
    """One JSON object per line instead of text."""
    access_log: Literal["off", "json", "clf"] = "off"
    """A line per request, as JSON or in the Common Log Format."""
    otlp: str | None = None
    """OpenTelemetry collector. (Not built yet.)"""


class DrainSection(Section):
    """How a worker, or the node, lets its connections go."""

    timeout_s: Duration = Field(default=30.0, alias="timeout")
    """Connections that are left after this time are closed."""
    spread_s: Duration = Field(default=2.0, alias="spread")
    """GOAWAYs are spread over this time, so that clients do not come back all at once."""


class Server(Section):
    """The node itself: where it listens, with what, and how much it allows."""

    listen: Annotated[list[Address], OneOrMore, Field(min_length=1, max_length=8)] = ["0.0.0.0:4433"]
    """UDP addresses to serve, one or a list. Port 0 takes a free one.

    `"[::]:443"` (with quotes in YAML) serves IPv6 and IPv4; beside an IPv4 listener on its port, IPv6 only. An address
    beside `0.0.0.0` or `[::]` of its own family, on the same port, is refused: that one has it already.
    """
    tls: Tls = Tls()
    profiles: Profiles = Profiles()
    telemetry: Telemetry = Telemetry()
    limits: LimitsSection = LimitsSection()
    drain: DrainSection = DrainSection()
    workers: Annotated[int, Field(ge=1, le=256)] | None = None
    """Worker processes. Nothing: one per CPU that the supervisor may use, if its control group has time for them.

    A reload and `admin scale` change it, up to the larger of the cores and the workers that the node was started with.
    """
    engine: Literal["auto", "native", "portable"] = "auto"
    """What serves packets: `native` (C, ngtcp2), `portable` (Python, aioquic), or `auto`: the best that is there.

    A reload that changes it replaces the workers, one after the other.
    """
    congestion_control: Literal["cubic", "bbr", "reno"] = "cubic"
    """How fast is sent. `bbr` only with the native engine. A reload changes it for new connections."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged. Can be changed by a reload."""
    user: str | None = None
    """Who workers are when the supervisor is root. Nothing: `velocity` where it exists, else `nobody`. Where root
    can become neither (docs/containers.md), they stay user id 0, without capabilities, and `status` says so.

    A reload that changes it replaces the workers, one after the other.
    """
    node_id: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] | None = None
    """The number in this node's connection IDs. Nothing: a random one, kept in the state directory."""
    server_header: str = Field(default="velocity-edge", max_length=128, pattern=r"^[ -~]*$")
    """Value of the `server` response header. Empty: no such header."""

    @property
    def addresses(self) -> list[Listener]:
        """The entries of `listen`, taken apart."""
        return [parse_address(text) for text in self.listen]


class Dispatch(Section):
    """How packets find their worker (docs/life-of-a-packet.md)."""

    mode: Literal["auto", "socket-classic", "socket", "xdp", "xdp-cpumap"] = "auto"
    """The tier: A `socket-classic`, B `socket`, C `xdp`, D `xdp-cpumap`. `auto` takes the best and says what is
    missing; a tier that was asked for and cannot be had is an error."""
    interfaces: Annotated[list[str], OneOrMore] = []
    """Network interfaces whose packets the XDP shield sees. Nothing: those that carry an explicit listen address."""
    initials_per_s: _COUNT = 2000
    """New connections per second that the shield lets through for one /24 or /56. Initials that continue a handshake,
    with a connection ID of this node, have four times as many."""
    initials_burst: _COUNT = 4000
    """How many of them may come at once."""
    slip: Annotated[int, Field(ge=0, le=1000)] = 8
    """One in so many Initials over the limit is answered with a Retry instead of being dropped. 0: none."""
    attack: bool = False
    """Let only packets pass that carry a connection ID of this node, and Initials; both within their limits."""
    deny: Annotated[list[Network], OneOrMore] = []
    """Networks whose packets to a listener the shield drops, such as 192.0.2.0/24."""

    @property
    def denied(self) -> list[IPv4Network | IPv6Network]:
        """The entries of `deny`, taken apart."""
        return [ip_network(text) for text in self.deny]


class Site(Section):
    """A host name and the folder that it shows."""

    hostname: Hostname
    """The name, `*.example.com`, or `*` for every name that has no site of its own."""
    aliases: Annotated[list[Hostname], OneOrMore] = []
    """More names for the same site."""
    root: AbsolutePath
    """The folder. Nothing outside of it is ever shown, whatever links are in it."""
    index: Annotated[list[str], OneOrMore] = ["index.html"]
    """Files that stand for a folder, the first that exists."""
    cache_control: str | None = Field(default=None, pattern=r"^[ -~]*$")
    """Value of the Cache-Control header of files."""
    listings: bool = False
    """List folders that have no index (HTML, or JSON for clients that ask for it)."""
    spa_fallback: str | None = None
    """File that answers for paths that do not exist, for single-page applications, such as index.html."""
    precompressed: bool = True
    """Send `file.br`, `file.zst` or `file.gz` in place of `file` to clients that take it."""
    error_pages: dict[Annotated[int, Field(ge=400, le=599)], str] = {}
    """Files to show with an error status, such as `404: errors/404.html`."""
    hidden_files: bool = False
    """Show files and folders whose names begin with a dot. (/.well-known is always shown.)"""
    security_headers: bool = True
    """Add `x-content-type-options: nosniff`, `referrer-policy` and `x-frame-options`."""
    fallback_endpoint: str | None = None
    """Where clients go that cannot speak `velocity/1`. (Not built yet.)"""


class Timeouts(Section):
    """Time-outs towards an upstream."""

    connect_s: Duration = Field(default=10.0, alias="connect")
    """Until the connection stands."""
    response_s: Duration = Field(default=30.0, alias="response")
    """Until the response begins."""
    idle_s: Duration = Field(default=90.0, alias="idle")
    """Between two pieces of a body."""


class Proxy(Section):
    """A host name and the server behind it. (Not built yet.)"""

    hostname: Hostname
    """The name, as in `sites`."""
    path: str = "/"
    """Prefix of the paths that go there."""
    upstream: str
    """Address of the server behind, such as http://127.0.0.1:8080."""
    preserve_host: bool = False
    """Send the client's host name to it instead of its own."""
    timeouts: Timeouts = Timeouts()


class Match(Section):
    """Which requests a route is for."""

    path: RoutePath
    """Prefix of the path, in whole segments: `/api` has `/api` and `/api/x`, not `/apix`. The longest one wins."""
    methods: Annotated[list[Method], OneOrMore] = []
    """Methods that it answers, such as GET or POST; HEAD goes with GET. Others get a 405. Nothing: every method."""


class Action(Section):
    """What is done with them."""

    type: Literal["static", "proxy"]
    """`static`: a fixed answer, given when the whole request is there. (`proxy` is not built yet.)"""
    status: Annotated[int, Field(ge=200, le=599)] = 200
    """Status of the answer."""
    body: str = ""
    """Body of the answer, as UTF-8."""
    headers: dict[str, Annotated[str, Field(pattern=r"^[ -~]*$")]] = {}
    """Fields of the answer. Without a `content-type`, a body is plain text."""
    upstream: str | None = None
    """Address of the server behind. (Not built yet.)"""
    streaming: bool = False
    """Pass bodies on as they come. (Not built yet.)"""


class RouteSection(Section):
    """An answer by path and method, on the hosts of every site (on every host when there are no sites)."""

    match: Match
    action: Action


class Content(Section):
    """What is served."""

    sites: list[Site] = []
    """Folders, by host name."""
    proxies: list[Proxy] = []
    """Servers behind this node. (Not built yet.)"""
    routes: list[RouteSection] = []
    """Answers by path and method. They go before the files of a site."""


class Tickets(Section):
    """The keys of session tickets, address tokens, resets and connection IDs: one table for the whole node."""

    max_age_s: Duration = Field(default=86400.0, alias="max_age")
    """How long a ticket can be used."""
    rotate_after_s: Duration = Field(default=43200.0, alias="rotate_after")
    """How long a key seals before the next one does. It opens for `max_age` longer."""
    storage: AbsolutePath | None = None
    """File that keeps the keys over a restart. Nothing: tickets.json in the state directory."""
    on_damage: Literal["refuse", "fresh"] = "refuse"
    """When this file cannot be read: do not start; or keep it aside and begin anew (sessions do full handshakes)."""


class Config(Section):
    """A whole configuration."""

    server: Server = Server()
    dispatch: Dispatch = Dispatch()
    content: Content = Content()
    tickets: Tickets = Tickets()
    telemetry: Telemetry | None = None
    """Another place for `server.telemetry`; not both."""

    @classmethod
    def from_json(cls, data: dict[str, Any] | bytes | str) -> Self:
        """Return the configuration that `to_json` wrote, be it that of a later version: keys of that one are left out.

        Whoever wrote it has checked every key (load.py); here a worker may be older than its supervisor.
        """
        content = orjson.dumps(data) if isinstance(data, dict) else data
        return cls.model_validate_json(content, extra="ignore")

    def to_json(self) -> dict[str, Any]:
        """Return this configuration as JSON types, the form in which it travels to workers (`Configure.config`)."""
        return self.model_dump(mode="json", by_alias=True)
