"""Upstreams as rows of the status document: a function of the series that workers report (families.py). Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from velocity_edge.status.document import Upstream
from velocity_edge.status.families import REQUEST_S
from velocity_edge.status.history import quantile
from velocity_edge.status.sums import Labels, Table

_PREFIX: Final = "velocity_upstream_"


def upstream_rows(measured: Table) -> list[Upstream]:
    """Return a row for each upstream that is in use, by name. Numbers count since the start of the node."""

    def total(family: str, upstream: str, which: Callable[[Labels], bool] = lambda _: True) -> int:
        series = measured.get(_PREFIX + family, {})
        return int(sum(value for labels, [value] in series.items() if labels[0] == upstream and which(labels)))

    rows: list[Upstream] = []
    families = ("healthy", "requests_total", "errors_total")
    names = {labels[0] for family in families for labels in measured.get(_PREFIX + family, {})}
    for name in sorted(names):
        durations = measured.get(_PREFIX + "request_duration_seconds", {}).get((name,), [])
        healthy = measured.get(_PREFIX + "healthy", {}).get((name,))
        rows.append(
            {
                "upstream": name,
                "healthy_workers": None if healthy is None else int(healthy[0]),
                "requests": total("requests_total", name),
                "errors_5xx": total("requests_total", name, lambda labels: labels[1].startswith("5")),
                "failed": total("errors_total", name),
                "retries": total("retries_total", name),
                "ejections": total("ejections_total", name),
                "running": total("connections", name, lambda labels: labels[1] == "running"),
                "idle": total("connections", name, lambda labels: labels[1] == "idle"),
                "p50_s": quantile(REQUEST_S, durations[1:], 0.5),
                "p99_s": quantile(REQUEST_S, durations[1:], 0.99),
            }
        )
    return rows
