"""What a configuration must also obey: values that belong together, and keys of the guide that are not built yet.

Pure: looks at a `Config`, yields (path, sentence). A key that is not built is refused when it asks for something; to
ignore it would let an operator believe in a protection that is not there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from velocity_edge.config.model import Config
from velocity_edge.config.tree import Path
from velocity_edge.config.values import format_address
from velocity_edge.quic.limits import Limits
from velocity_edge.wire.messages import Listener

Problem = tuple[Path, str]

#: RFC 9110 section 5.1: a field name is a token.
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Lengths and dates are ours; the others belong to one connection and are malformed in HTTP/3 (RFC 9114 section 4.2).
_OUR_FIELDS: Final = frozenset(
    ("content-length", "date", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te")
)


def problems(config: Config) -> Iterator[Problem]:
    """Yield each thing in *config* that cannot be used, with its place."""
    yield from _together(config)
    yield from _names(config)
    yield from _routes(config)
    yield from _not_built(config)


def _together(config: Config) -> Iterator[Problem]:
    tls = config.server.tls
    if (tls.certificate is None) != (tls.private_key is None):
        present, absent = ("certificate", "private_key") if tls.certificate else ("private_key", "certificate")
        yield ("server", "tls", present), f"cannot be used alone: needs server.tls.{absent} beside it"
    if tls.self_signed and tls.certificate is not None:
        yield (
            ("server", "tls", "self_signed"),
            "cannot be combined with server.tls.certificate: a node shows one or the other",
        )
    profiles = config.server.profiles
    if profiles.default not in profiles.permit:
        permitted = ", ".join(profiles.permit)
        yield ("server", "profiles", "default"), f"cannot be {profiles.default!r}: permit has only [{permitted}]"
    if config.server.congestion_control == "bbr" and config.server.engine == "portable":
        yield ("server", "congestion_control"), "cannot be 'bbr' with the portable engine: must be 'cubic' or 'reno'"
    if config.dispatch.initials_burst < config.dispatch.initials_per_s // 1000 + 1:
        yield ("dispatch", "initials_burst"), "cannot be less than a thousandth of initials_per_s: must last for 1 ms"
    tickets = config.tickets
    if tickets.rotate_after_s <= 0 or tickets.rotate_after_s > tickets.max_age_s:
        yield ("tickets", "rotate_after"), "cannot be 0 or longer than tickets.max_age: keys must outlive a rotation"
    yield from _limits(config)
    yield from _listeners(config)


def _listeners(config: Config) -> Iterator[Problem]:
    """Two listeners cannot have the same address and port, nor one an address that another has with all others.

    `[::]` beside an IPv4 listener on its port serves IPv6 only (supervisor/machine/sockets.py), so these two are fine.
    """
    taken = config.server.addresses
    for i, listener in enumerate(taken):
        where, text = ("server", "listen", str(i)), format_address(listener)
        address = ipaddress.ip_address(listener.host)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            # Written here: which form str() gives such an address depends on Python's version.
            mapped, port = address.ipv4_mapped, listener.port
            right = format_address(Listener(str(mapped), port))
            yield where, f"cannot listen on [::ffff:{mapped}]:{port}: it is IPv4-mapped; {right} would be right"
            continue
        for j, other in enumerate(taken[:i]):
            before = ipaddress.ip_address(other.host)
            if other.port != listener.port or listener.port == 0 or before.version != address.version:
                continue
            if address == before:
                yield where, f"cannot listen on {text} twice: listen[{j}] is the same"
            elif before.is_unspecified or address.is_unspecified:
                wide, narrow = (other, listener) if before.is_unspecified else (listener, other)
                yield (
                    where,
                    f"cannot listen on {text} beside listen[{j}], {format_address(other)}: {format_address(wide)} has "
                    f"{narrow.host} already",
                )
            else:
                continue
            break


def _limits(config: Config) -> Iterator[Problem]:
    limits: Limits = config.server.limits.limits()
    where = ("server", "limits")
    if limits.send_low_bytes >= limits.send_high_bytes:
        yield (*where, "send_low"), "cannot be as large as send_high: a writer would never be woken"
    if limits.max_streams_uni < 3:
        yield (*where, "max_streams_uni"), "cannot be below 3: HTTP/3 needs a control stream and two for QPACK"
    if limits.retry_threshold > limits.max_half_open:
        yield (*where, "retry_threshold"), "cannot be above max_half_open: Retry would never be asked for"
    if limits.max_crypto_bytes < 4096:
        yield (*where, "max_crypto"), "cannot be below 4096: a post-quantum ClientHello is 2 KiB and may come in pieces"
    if limits.stream_window_bytes > limits.connection_window_bytes:
        yield (*where, "stream_window"), "cannot be larger than connection_window"


def _names(config: Config) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for i, site in enumerate(config.content.sites):
        for name in (site.hostname, *site.aliases):
            if name in seen:
                key = "hostname" if name == site.hostname else "aliases"
                yield (
                    ("content", "sites", str(i), key),
                    f"cannot serve {name!r} twice: content.sites[{seen[name]}] has it",
                )
            seen.setdefault(name, i)


def _routes(config: Config) -> Iterator[Problem]:
    """Two answers to one question, and answers that HTTP does not have."""
    seen: dict[tuple[str, str], int] = {}
    for i, route in enumerate(config.content.routes):
        where = ("content", "routes", str(i))
        path, action = route.match.path.rstrip("/"), route.action
        if not path and config.content.sites:
            yield (*where, "match", "path"), "cannot be '/' beside content.sites: nothing of them would be shown"
        for method in route.match.methods or ("",):
            # A route for every method has no others beside it: which one is meant would depend on the order.
            other = next((seen[key] for key in ((path, method), (path, "")) if key in seen), None)
            if other is None and not method:
                other = next((number for (taken, _), number in seen.items() if taken == path), None)
            if other is not None:
                what = f"{method or 'every method'} {route.match.path}"
                yield (*where, "match"), f"cannot answer {what} twice: content.routes[{other}] has it"
            seen.setdefault((path, method), i)
        if action.status in (204, 205, 304) and action.body:
            yield (*where, "action", "body"), f"cannot go with status {action.status}: that one has no body (RFC 9110)"
        for name in action.headers:
            if not _FIELD_NAME.fullmatch(name):
                yield (*where, "action", "headers"), f"cannot use {name!r}: must be a field name such as cache-control"
            elif name.lower() in _OUR_FIELDS:
                yield (*where, "action", "headers"), f"cannot set {name!r}: HTTP/3 has no use for it, or we set it"


def _not_built(config: Config) -> Iterator[Problem]:
    if config.content.proxies:
        yield (
            ("content", "proxies"),
            "cannot proxy yet: serve folders with content.sites, and let another server answer for these names",
        )
    for i, route in enumerate(config.content.routes):
        where = ("content", "routes", str(i), "action")
        if route.action.type == "proxy":
            yield (*where, "type"), "cannot proxy yet: must be 'static', or let another server answer for this path"
        elif route.action.upstream is not None or route.action.streaming:
            key = "streaming" if route.action.upstream is None else "upstream"
            yield (*where, key), "cannot stand beside type 'static': a fixed answer has no server behind it"
    for i, site in enumerate(config.content.sites):
        if site.fallback_endpoint is not None:
            yield ("content", "sites", str(i), "fallback_endpoint"), "cannot point to a fallback yet: leave it out"
    if config.server.tls.require_ech:
        yield ("server", "tls", "require_ech"), "cannot be true yet: ECH is not built; leave it out or say false"
    if config.server.tls.client_auth != "none":
        yield ("server", "tls", "client_auth"), 'cannot ask clients for certificates yet: leave it out or say "none"'
    if config.server.telemetry.otlp is not None:
        yield ("server", "telemetry", "otlp"), "cannot export to OpenTelemetry yet: use metrics_listen"
