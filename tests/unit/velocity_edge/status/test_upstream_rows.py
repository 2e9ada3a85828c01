"""Invariant: an upstream has one row with its own numbers, whichever of its series exist."""

from velocity_edge.status.families import FAMILIES
from velocity_edge.status.sums import Table
from velocity_edge.status.upstream_rows import upstream_rows


def test_rows_have_the_numbers_of_their_upstream() -> None:
    width = FAMILIES["velocity_upstream_request_duration_seconds"].width
    measured: Table = {
        "velocity_upstream_requests_total": {("b", "200"): [5], ("b", "503"): [2], ("a", "200"): [1]},
        "velocity_upstream_errors_total": {("b", "connect_failed"): [3], ("c", "invalid"): [4]},
        "velocity_upstream_healthy": {("b",): [2], ("a",): [0]},
        "velocity_upstream_connections": {("b", "idle"): [7], ("b", "running"): [1]},
        "velocity_upstream_retries_total": {("b",): [6]},
        "velocity_upstream_request_duration_seconds": {("b",): [0.1, 7, *[0] * (width - 2)]},
        "velocity_http_requests_total": {("GET", "200", "x", "h3"): [9]},
    }
    first, second, third = upstream_rows(measured)
    assert (first["upstream"], first["healthy_workers"], first["requests"], first["p99_s"]) == ("a", 0, 1, None)
    assert (third["upstream"], third["healthy_workers"], third["failed"]) == ("c", None, 4)
    assert second["p50_s"] is not None
    expected = {"requests": 7, "errors_5xx": 2, "failed": 3, "retries": 6, "ejections": 0, "running": 1, "idle": 7}
    assert {name: second[name] for name in expected} == expected  # type: ignore[literal-required]
    assert upstream_rows({}) == []
