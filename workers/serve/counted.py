"""Requests and handshakes as series (velocity_edge/status/families.py). Pure.

A request costs three numbers and one look-up here, about 0.6 us: its series are kept by site, method and status. A
method that is not of RFC 9110 counts as `other`, so that a client cannot make series; sites come from the
configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from velocity_edge.http.requests import HandshakeCompleted
from velocity_edge.pki.signatures import scheme_name
from velocity_edge.status.families import METHODS, OTHER
from velocity_edge.tls.kex import Group, group_name
from workers.measures import Counter, Histogram, Measures

#: The site of requests that no site answers: 400, 421, 431, 503.
NO_SITE: Final = "none"


class RequestSeries:
    """The requests of one worker over one protocol."""

    def __init__(self, measures: Measures, proto: str = "h3") -> None:
        """*proto*: h3, h2, h1 or velocity/1."""
        self._measures = measures
        self._proto = proto
        self._answers: dict[tuple[str, bytes, int], tuple[Counter, Counter, Histogram]] = {}

    def count(self, site: str, method: bytes, status: int, body_bytes: int, duration_s: float) -> None:
        """Count an answered request. *site*: as `Pipeline.site`."""
        found = self._answers.get((site, method, status))
        if found is None:
            found = self._open(site, method, status)
        answers, sent, durations = found
        answers.value += 1
        sent.value += body_bytes
        durations.observe(duration_s)

    def _open(self, site: str, method: bytes, status: int) -> tuple[Counter, Counter, Histogram]:
        known = method in METHODS
        labels = (method.decode() if known else OTHER, str(status), site or NO_SITE, self._proto)
        series = (
            self._measures.counter("velocity_http_requests_total", labels),
            self._measures.counter("velocity_http_response_bytes_total", labels),
            self._measures.histogram("velocity_http_request_duration_seconds", (site or NO_SITE,)),
        )
        if known:
            self._answers[site, method, status] = series
        return series


class HandshakeSeries:
    """The handshakes of one worker."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        #: Group -> name of its profile in the revision in use.
        self.profile_of: Callable[[int], str] = lambda group: OTHER

    def completed(self, event: HandshakeCompleted) -> None:
        """Count a handshake that is complete."""
        group = group_name(event.group)
        signature = "" if event.resumed else scheme_name(event.signature_scheme)
        resumed = "true" if event.resumed else "false"
        self._measures.count("velocity_handshakes_total", (event.alpn, group, signature, "completed", resumed))
        labels = (self.profile_of(event.group), group)
        self._measures.observe("velocity_handshake_duration_seconds", event.duration_ns / 1e9, labels)

    def key_exchange(self, group: Group, duration_s: float, valid: bool) -> None:
        """Count a key exchange: `ServerPolicy.on_key_exchange`."""
        if not valid:
            if group.post_quantum:
                self._measures.count("velocity_pq_validation_failures_total")
            return
        op = "encapsulate" if group.post_quantum else "agree"
        self._measures.observe("velocity_kem_operation_duration_seconds", duration_s, (op, group.name))
