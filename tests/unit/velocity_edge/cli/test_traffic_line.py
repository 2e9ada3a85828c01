"""Invariant: the line has the numbers of the last minute in units for people, and none that was not measured."""

from velocity_edge.cli.traffic_line import traffic_line
from velocity_edge.status.document import Traffic

BUSY: Traffic = {
    "window_s": 60.0,
    "requests_per_s": 18_442.4,
    "errors_per_s": 3.7,
    "handshakes_per_s": 2.5,
    "dropped_per_s": 0.0,
    "sent_bytes_per_s": 240 * 2**20,
    "p50_s": 0.00042,
    "p99_s": 0.0213,
    "handshake_p95_s": 1.241,
    "pq_share": 0.9,
}


def test_the_line_of_a_busy_node() -> None:
    assert traffic_line(BUSY) == (
        "last 60 s   18 442 requests/s, p50 420 us, p99 21.3 ms, 0.02 % errors, 2.5 handshakes/s, p95 1.24 s, "
        "0 packets dropped/s, 240 MiB/s out"
    )


def test_an_idle_node_has_no_times_and_a_new_one_no_line() -> None:
    idle: Traffic = {**BUSY, "requests_per_s": 0.0, "errors_per_s": 0.0, "p50_s": None, "p99_s": None}
    assert "0 requests/s, p50 -, p99 -, 0.00 % errors" in traffic_line(idle)
    assert traffic_line(None) == ""
