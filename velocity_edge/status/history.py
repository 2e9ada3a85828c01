"""The last hour of a node in steps of 10 s, and its traffic over the last minute: for the status page and `status`.

Derived from totals (counters of the slabs, series of workers), so it needs nothing of workers beside what metrics have.
Bounded: `KEEP` samples of a few numbers. It begins anew with each supervisor. Pure: times are parameters.

Quantiles come from the buckets of histograms, with linear interpolation inside a bucket, as Prometheus
does it: they are as exact as the buckets are narrow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from velocity_edge.status.document import Traffic
from velocity_edge.status.families import HANDSHAKE_S, REQUEST_S
from velocity_edge.status.sums import Table

EVERY_S: Final = 10.0
#: The first step of a supervisor.
FIRST_S: Final = 2.0
#: An hour.
KEEP: Final = 360
#: Samples behind `traffic`: a minute.
_RECENT: Final = 6

_POST_QUANTUM: Final = ("handshakes_x25519mlkem768", "handshakes_secp256r1mlkem768", "handshakes_secp384r1mlkem1024")
#: Totals whose rates are kept: name in the history -> counters of the node (`pressure.totals_of`).
_RATES: Final[Mapping[str, tuple[str, ...]]] = {
    "requests_per_s": ("requests",),
    "errors_per_s": ("responses_5xx",),
    "handshakes_per_s": ("handshakes_completed",),
    "pq_per_s": _POST_QUANTUM,
    "sent_bytes_per_s": ("send_bytes",),
}


@dataclass(frozen=True, slots=True)
class _Reading:
    """Totals at one moment."""

    clock_s: float
    totals: Mapping[str, float]
    requests: Sequence[float]
    handshakes: Sequence[float]


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened in one step that ended at `at_s` (seconds since 1970). None: nothing to measure."""

    at_s: float
    connections: int
    requests_per_s: float
    errors_per_s: float
    handshakes_per_s: float
    pq_per_s: float
    sent_bytes_per_s: float
    dropped_per_s: float
    p50_s: float | None
    p99_s: float | None
    handshake_p95_s: float | None


class History:
    """The samples of one node, oldest first."""

    def __init__(self) -> None:
        self._readings: deque[_Reading] = deque(maxlen=_RECENT + 1)
        self.samples: deque[Sample] = deque(maxlen=KEEP)

    def observe(
        self, totals: Mapping[str, int], measured: Table, connections: int, clock_s: float, at_s: float
    ) -> None:
        """Take the totals of the node, every `EVERY_S`. *clock_s*: monotonic."""
        dropped = sum(n for name, n in totals.items() if _is_drop(name))
        reading = _Reading(
            clock_s,
            {name: sum(totals.get(each, 0) for each in of) for name, of in _RATES.items()} | {"dropped_per_s": dropped},
            _buckets(measured, "velocity_http_request_duration_seconds", len(REQUEST_S)),
            _buckets(measured, "velocity_handshake_duration_seconds", len(HANDSHAKE_S)),
        )
        if self._readings and clock_s > self._readings[-1].clock_s:
            rates, requests, handshakes = _between(self._readings[-1], reading)
            self.samples.append(
                Sample(
                    at_s,
                    connections,
                    p50_s=quantile(REQUEST_S, requests, 0.5),
                    p99_s=quantile(REQUEST_S, requests, 0.99),
                    handshake_p95_s=quantile(HANDSHAKE_S, handshakes, 0.95),
                    **rates,
                )
            )
        self._readings.append(reading)

    def traffic(self) -> Traffic | None:
        """Return the last minute; None in the first seconds of a supervisor."""
        if len(self._readings) < 2:
            return None
        rates, requests, handshakes = _between(self._readings[0], self._readings[-1])
        completed = rates["handshakes_per_s"]
        return {
            "window_s": self._readings[-1].clock_s - self._readings[0].clock_s,
            "requests_per_s": rates["requests_per_s"],
            "errors_per_s": rates["errors_per_s"],
            "handshakes_per_s": completed,
            "dropped_per_s": rates["dropped_per_s"],
            "sent_bytes_per_s": rates["sent_bytes_per_s"],
            "p50_s": quantile(REQUEST_S, requests, 0.5),
            "p99_s": quantile(REQUEST_S, requests, 0.99),
            "handshake_p95_s": quantile(HANDSHAKE_S, handshakes, 0.95),
            "pq_share": min(1.0, rates["pq_per_s"] / completed) if completed else None,
        }

    def document(self, after_s: float = 0.0) -> dict[str, Any]:
        """Return the samples after this moment (seconds since 1970) as columns, for `/history.json`."""
        chosen = [sample for sample in self.samples if sample.at_s > after_s]
        names = Sample.__slots__
        return {"every_s": EVERY_S, "keep": KEEP, **{name: [getattr(each, name) for each in chosen] for name in names}}


def quantile(bounds: Sequence[float], counts: Sequence[float], q: float) -> float | None:
    """Return the *q*-quantile of a histogram (not cumulative; the last count is above all bounds); None when empty."""
    total = sum(counts)
    if total <= 0:
        return None
    rank, seen, lower = q * total, 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and seen + count >= rank:
            return lower + (bound - lower) * (rank - seen) / count
        seen, lower = seen + count, bound
    return bounds[-1]


def _between(first: _Reading, last: _Reading) -> tuple[dict[str, float], list[float], list[float]]:
    """Return rates and new observations. A total that fell (it restarted) counts as unchanged."""
    passed_s = max(last.clock_s - first.clock_s, 1e-3)
    rates = {name: max(0.0, total - first.totals[name]) / passed_s for name, total in last.totals.items()}
    requests = [max(0.0, b - a) for a, b in zip(first.requests, last.requests, strict=True)]
    handshakes = [max(0.0, b - a) for a, b in zip(first.handshakes, last.handshakes, strict=True)]
    return rates, requests, handshakes


def _buckets(measured: Table, family: str, bounds: int) -> list[float]:
    """Return the counts of each bucket over all series of a histogram."""
    total = [0.0] * (bounds + 1)
    for [_, *counts] in measured.get(family, {}).values():
        total = [a + b for a, b in zip(total, counts, strict=True)]
    return total


def _is_drop(name: str) -> bool:
    return name.startswith("verdict_dropped_") or name.startswith("xdp.dropped_") or name == "socket_overflows"
