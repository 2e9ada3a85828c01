"""How the requests of a proxy are spread over its servers: `lb`, `health`, `retries` and `queue`.

The same sections for `content.proxies` and `action: {type: proxy}`. What they mean is carried out in workers/proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import Duration, Hostname, OneOrMore, Written

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _field_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"cannot use {value!r}: must be a field name such as x-user")
    return value.lower()


def _cookie_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"cannot use {value!r}: must be the name of a cookie, such as session")
    return value


def _status_ranges(value: Any) -> Any:
    entries = value if isinstance(value, list) else [value]
    return [str(entry) if isinstance(entry, int) and not isinstance(entry, bool) else entry for entry in entries]


def _status_range(value: str) -> str:
    found = re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", value)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise ValueError(f"cannot use {value!r}: must be a status such as 200, or a range such as 200-399")
    return value


def _target(value: str) -> str:
    if not re.fullmatch(r"/[!-~]*", value) or "#" in value:
        raise ValueError(f"cannot use {value!r}: must be a path as in a request, such as /healthz or /ping?full=1")
    return value


#: In lower case.
FieldName = Annotated[str, AfterValidator(_field_name), Written("field name")]
CookieName = Annotated[str, AfterValidator(_cookie_name), Written("name of a cookie")]
StatusRange = Annotated[str, AfterValidator(_status_range), Written("status or range")]

Policy = Literal["round_robin", "least_connections", "random_two", "ip_hash", "header_hash", "cookie_hash"]


class LoadBalancing(Section):
    """Which server gets a request. Only servers that are healthy are chosen, unless none is."""

    policy: Policy = "round_robin"
    """`round_robin`; `least_connections`: fewest running requests; `random_two`: the less loaded of two random ones;
    `ip_hash`, `header_hash`, `cookie_hash`: the same server for the same client address (IPv6: /64), field or cookie,
    by consistent hashing: a server that comes or goes moves only its own share. All follow the weights."""
    header: FieldName | None = None
    """Field for `header_hash`. Requests without it are spread by round robin."""
    cookie: CookieName | None = None
    """Cookie for `cookie_hash`. Requests without it are spread by round robin."""
    sticky: CookieName | None = None
    """Name of a cookie that the node sets, so that a client stays with the server that answered it first, with any
    policy. Its value names no server to strangers; a server that is gone or not healthy is replaced."""

    def problems(self) -> Iterator[Problem]:
        """Yield a policy without its field or cookie, and the reverse."""
        for key, policy in (("header", "header_hash"), ("cookie", "cookie_hash")):
            given = getattr(self, key) is not None
            if self.policy == policy and not given:
                yield (key,), f"cannot be left out with policy {policy!r}"
            elif given and self.policy != policy:
                yield (key,), f"cannot be used with policy {self.policy!r}: only with {policy!r}"


class ActiveHealth(Section):
    """Requests that each worker sends to each server to find out whether it is healthy."""

    path: Annotated[str, AfterValidator(_target), Written("path of requests")]
    """Path of the request, which is a GET."""
    interval_s: Annotated[Duration, Field(ge=0.1, le=86400)] = Field(default=10.0, alias="interval")
    """From one request to the next; a tenth of it is random."""
    timeout_s: Annotated[Duration, Field(ge=0.01, le=3600)] = Field(default=5.0, alias="timeout")
    """Until the whole answer is there."""
    status: Annotated[list[StatusRange], BeforeValidator(_status_ranges), Field(min_length=1, max_length=16)] = [
        "200-399"
    ]
    """Statuses of a healthy server."""
    body: str | None = None
    """Text that the body of a healthy answer contains, within its first 64 KiB."""
    host: Hostname | None = None
    """Host of the request. Unset: the upstream's own."""
    passes: Annotated[int, Field(ge=1, le=100)] = 2
    """Good answers in a row after which a server is healthy again."""
    fails: Annotated[int, Field(ge=1, le=100)] = 3
    """Bad answers in a row after which it is not."""

    def problems(self) -> Iterator[Problem]:
        """Yield a host that is a pattern."""
        if self.host is not None and self.host.startswith("*"):
            yield ("host",), f"cannot use {self.host!r}: must be one host name"


class PassiveHealth(Section):
    """What requests tell: a server that fails too often gets no requests for a while."""

    fails: Annotated[int, Field(ge=0, le=10_000)] = 5
    """Failed attempts within `window` after which a server is left out: no connection, no or no valid answer in time,
    or one of `status`. 0: never."""
    window_s: Annotated[Duration, Field(ge=0.1, le=3600)] = Field(default=10.0, alias="window")
    """Time in which failures are counted."""
    ejection_s: Annotated[Duration, Field(ge=0.1, le=3600)] = Field(default=10.0, alias="ejection")
    """Time without requests; doubled each time in a row, up to 16 times."""
    status: Annotated[list[StatusRange], BeforeValidator(_status_ranges), Field(max_length=16)] = []
    """Statuses that count as failures, such as 503 or 500-599."""


class Health(Section):
    """Which servers are healthy. When none is, requests go to all of them: one may work all the same."""

    active: ActiveHealth | None = None
    passive: PassiveHealth = PassiveHealth()


class Retries(Section):
    """Further attempts when a server did not answer. Never after the response has begun.

    A request that no server has seen is always tried again. Others only if their method is idempotent (RFC 9110 section
    9.2.2) and nothing of a body was sent.
    """

    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Attempts in total, each on another server while there is one. 1: no retries."""
    budget: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of retries in all attempts of the last 10 s, so that servers that fail do not get more load. 10 retries per
    10 s are always allowed."""
    on: Annotated[list[Literal["connect", "closed", "timeout", "invalid"]], OneOrMore] = ["connect", "closed"]
    """`connect`: no connection; `closed`: it ended before an answer; `timeout`: no answer within `timeouts.response`;
    `invalid`: the answer is not HTTP."""


class Queue(Section):
    """Requests that wait because all servers have `max_connections`."""

    max: Annotated[int, Field(ge=0, le=100_000)] = 256
    """Requests that may wait, per worker. Others get a 503 with `retry-after`."""
    timeout_s: Duration = Field(default=5.0, alias="timeout")
    """How long a request may wait; then it gets a 503."""
