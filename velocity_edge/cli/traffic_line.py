"""The last minute of a node as one line of `status`. Short because it is one line."""

from __future__ import annotations

from velocity_edge.cli.units import count, size
from velocity_edge.status.document import Traffic


def traffic_line(traffic: Traffic | None) -> str:
    """Return the line; empty for a supervisor that has just started, or of an earlier version."""
    if traffic is None:
        return ""
    requests, errors = traffic["requests_per_s"], traffic["errors_per_s"]
    parts = [
        f"{_rate(requests)} requests/s",
        f"p50 {_time(traffic['p50_s'])}",
        f"p99 {_time(traffic['p99_s'])}",
        f"{100 * min(1.0, errors / requests) if requests else 0:.2f} % errors",
        f"{_rate(traffic['handshakes_per_s'])} handshakes/s",
        f"p95 {_time(traffic['handshake_p95_s'])}",
        f"{_rate(traffic['dropped_per_s'])} packets dropped/s",
        f"{size(traffic['sent_bytes_per_s'])}/s out",
    ]
    return f"last {traffic['window_s']:.0f} s".ljust(12) + ", ".join(parts)


def _rate(per_s: float) -> str:
    return f"{per_s:.1f}" if 0 < per_s < 10 else count(per_s)


def _time(seconds: float | None) -> str:
    """Return "420 us", "21.3 ms", "1.24 s"; "-" when nothing was measured."""
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
