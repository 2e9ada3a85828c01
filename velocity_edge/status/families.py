"""The metrics that workers report as series with labels: their names, help, labels and buckets. Pure.

Counters without labels are cells of the slab (velocity_edge/wire/counters.py) and need no family. A worker keeps the
series (workers/measures.py) and reports those that changed every second (`Measured`); the supervisor sums over workers
of now and before (sums.py). Both take only what is declared here, so neither a worker of another version nor a mistake
can add a metric.

Values of labels come from the configuration or from fixed sets. `max_series` bounds a family in each process anyway:
further series are counted as one whose labels are all `other`, and in velocity_metric_series_refused_total.

To add a family: one entry. Labels and buckets of an existing one never change, because values of earlier versions are
added to those of later ones during an upgrade: a new name is needed then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

#: The label of everything beyond `max_series`, and of methods and values outside of a fixed set.
OTHER: Final = "other"

#: Seconds. A file from memory takes 50 us; nobody waits for more than a minute.
REQUEST_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
#: A handshake takes a round trip or two and some milliseconds.
HANDSHAKE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
#: An encapsulation takes 20 to 200 us.
KEM_S: Final = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01)
#: To a server in the same rack, or across an ocean with a lost SYN.
CONNECT_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 10)

#: Methods with a label of their own (RFC 9110 section 9, RFC 5789).
METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"))

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. Counters end in `_total`; times are in seconds."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    #: Upper bounds of a histogram, ascending; +Inf is implied.
    buckets: tuple[float, ...] = ()
    max_series: int = 256

    @property
    def width(self) -> int:
        """How many numbers a series has: one, or (histograms) the sum and the count of each bucket and of +Inf."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1


_ALL: Final = (
    # --- requests, by the exchanges (workers/serve)
    Family(
        "velocity_http_requests_total",
        "counter",
        "Responses by method, status code, site (its first host name) and protocol.",
        ("method", "status", "site", "proto"),
        max_series=2048,
    ),
    Family(
        "velocity_http_response_bytes_total",
        "counter",
        "Bytes of response bodies, whether or not clients received all of them.",
        ("method", "status", "site", "proto"),
        max_series=2048,
    ),
    Family(
        "velocity_http_request_duration_seconds",
        "histogram",
        "From the request's header section to the end of the response as the handler gives it.",
        ("site",),
        REQUEST_S,
        max_series=512,
    ),
    # --- handshakes
    Family(
        "velocity_handshakes_total",
        "counter",
        "Handshakes by how they ended. The labels but `result` are empty for those that were not completed.",
        ("alpn", "group", "sig", "result", "resumed"),
    ),
    Family(
        "velocity_handshake_duration_seconds",
        "histogram",
        "From the first packet to the client's Finished, by the profile that the group belongs to.",
        ("profile", "group"),
        HANDSHAKE_S,
    ),
    Family(
        "velocity_kem_operation_duration_seconds",
        "histogram",
        "Key exchange on this side: encapsulation (hybrid groups: with their classical part), or agreement.",
        ("op", "group"),
        KEM_S,
    ),
    Family(
        "velocity_pq_validation_failures_total",
        "counter",
        "Post-quantum key shares of clients that FIPS 203 forbids, or of another length.",
    ),
    Family(
        "velocity_connections_refused_total",
        "counter",
        "Connections that were closed after their handshake: reason=address (max_connections_per_address).",
        ("reason",),
    ),
    # --- upstreams (workers/proxy). `upstream`: the server's address as configured.
    Family(
        "velocity_upstream_requests_total",
        "counter",
        "Responses of upstreams by status code.",
        ("upstream", "code"),
        max_series=2048,
    ),
    Family(
        "velocity_upstream_request_duration_seconds",
        "histogram",
        "From the choice of an upstream to the end of its response.",
        ("upstream",),
        REQUEST_S,
    ),
    Family(
        "velocity_upstream_connect_duration_seconds",
        "histogram",
        "Until a new connection to an upstream, with TLS where it is used.",
        ("upstream",),
        CONNECT_S,
    ),
    Family(
        "velocity_upstream_connections",
        "gauge",
        "Open connections to upstreams: state=idle or running.",
        ("upstream", "state"),
    ),
    Family(
        "velocity_upstream_healthy",
        "gauge",
        "Workers that consider the upstream healthy. 0: it gets no requests.",
        ("upstream",),
    ),
    Family("velocity_upstream_retries_total", "counter", "Further attempts for a request.", ("upstream",)),
    Family(
        "velocity_upstream_ejections_total",
        "counter",
        "Upstreams that a worker stopped using for a time because requests to it failed.",
        ("upstream",),
    ),
    Family(
        "velocity_upstream_errors_total",
        "counter",
        "Attempts without a complete response, by outcome (velocity_edge/http/requests.py, Outcome).",
        ("upstream", "outcome"),
        max_series=1024,
    ),
    # --- middleware
    Family("velocity_auth_total", "counter", "Decisions of authentication.", ("middleware", "result")),
    Family("velocity_rate_limited_total", "counter", "Requests over a rate limit (429).", ("rule",)),
    Family(
        "velocity_rate_limit_evicted_total",
        "counter",
        "Counts of rate limits that were forgotten early because their table is full: too many clients at once.",
    ),
    Family(
        "velocity_compressed_bytes_total",
        "counter",
        "Bytes of responses that were compressed on the fly: stage=before or after.",
        ("stage",),
    ),
    Family("velocity_waf_total", "counter", "Requests that a WAF rule matched, by its action.", ("rule", "action")),
    # --- telemetry itself
    Family(
        "velocity_metric_series_refused_total",
        "counter",
        "Times that a new series was counted as `other` because its family is full.",
        ("family",),
    ),
    Family(
        "velocity_trace_spans_total",
        "counter",
        "Spans: exported, dropped (the queue was full), or failed (the collector did not take them).",
        ("result",),
    ),
)

FAMILIES: Final[Mapping[str, Family]] = {family.name: family for family in _ALL}
