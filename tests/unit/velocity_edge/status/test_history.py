"""Invariant: rates and quantiles are those of the growth of totals; a restart is no growth; memory is bounded."""

import json
from typing import Any

import pytest

from velocity_edge.status.families import FAMILIES, REQUEST_S
from velocity_edge.status.history import EVERY_S, KEEP, History, quantile

DURATIONS = "velocity_http_request_duration_seconds"
NONE = dict.fromkeys(("requests", "responses_5xx", "handshakes_completed", "send_bytes"), 0)


def durations(**by_bound: int) -> Any:
    """Counts by the index of their bucket: b3=7."""
    counts = [0] * (FAMILIES[DURATIONS].width - 1)
    for name, count in by_bound.items():
        counts[int(name[1:])] = count
    return {DURATIONS: {("a",): [0.0, *counts]}}


def test_rates_are_those_of_the_step() -> None:
    history = History()
    assert history.traffic() is None
    history.observe(NONE | {"requests": 100}, {}, 3, 50.0, 1000.0)
    assert history.traffic() is None
    totals = NONE | {
        "requests": 400,
        "responses_5xx": 10,
        "handshakes_completed": 20,
        "handshakes_x25519mlkem768": 15,
        "socket_overflows": 5,
        "verdict_dropped_malformed": 3,
        "xdp.dropped_denied": 2,
        "verdict_delivered": 10_000,
    }
    history.observe(totals, {}, 7, 60.0, 1010.0)
    [sample] = history.samples
    assert (sample.at_s, sample.connections, sample.requests_per_s, sample.errors_per_s) == (1010.0, 7, 30.0, 1.0)
    assert (sample.dropped_per_s, sample.p50_s) == (1.0, None)
    traffic = history.traffic()
    assert traffic is not None
    assert (traffic["window_s"], traffic["pq_share"], traffic["requests_per_s"]) == (10.0, 0.75, 30.0)


def test_a_total_that_falls_counts_as_unchanged() -> None:
    history = History()
    history.observe(NONE | {"requests": 100}, durations(b0=9), 0, 0.0, 0.0)
    history.observe(NONE | {"requests": 10}, durations(b0=1), 0, 10.0, 10.0)
    assert history.samples[0].requests_per_s == 0
    assert history.samples[0].p99_s is None
    history.observe(NONE | {"requests": 10}, durations(b0=0, b4=1), 0, 20.0, 20.0)
    assert REQUEST_S[3] < (history.samples[1].p50_s or 0) < REQUEST_S[4]


def test_quantiles_are_of_new_observations_only() -> None:
    history = History()
    history.observe(NONE, durations(b0=1000), 0, 0.0, 0.0)
    history.observe(NONE, durations(b0=1000, b4=10), 0, 10.0, 10.0)
    sample = history.samples[0]
    assert sample.p50_s is not None
    assert REQUEST_S[3] < sample.p50_s < REQUEST_S[4]


def test_an_hour_is_kept_and_sent_from_a_moment_on() -> None:
    history = History()
    for n in range(KEEP + 50):
        history.observe(NONE | {"requests": n * n}, {}, n, n * EVERY_S, n * EVERY_S)
    whole = history.document()
    assert len(whole["at_s"]) == len(whole["requests_per_s"]) == KEEP
    some = history.document(after_s=whole["at_s"][-3])
    assert some["connections"] == [KEEP + 48, KEEP + 49]
    assert len(json.dumps(whole)) < 60_000
    assert history.document(float("nan"))["at_s"] == []


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.5),
        ([0, 10, 0, 0], 0.5, 1.5),
        ([5, 0, 5, 0], 0.99, 3.96),
        ([0, 0, 0, 4], 0.5, 4.0),
        ([1, 1, 1, 1], 1.0, 4.0),
    ],
)
def test_quantiles_interpolate_inside_a_bucket(counts: list[int], q: float, expected: float | None) -> None:
    found = quantile((1.0, 2.0, 4.0), counts, q)
    assert found == expected if expected is None else found == pytest.approx(expected)
