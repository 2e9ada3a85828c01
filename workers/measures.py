"""What a worker measures beside the fixed counters of its slab: series with labels, counters, gauges and histograms.

Families, with their labels and buckets, are declared in velocity_edge/status/families.py; values of labels come from
the configuration or from fixed sets, never from a peer, and the number of series is bounded. The reporter sends what
changed to the supervisor every second (workers/process/reporter.py), which sums over workers.

Short because what is sent, and how series are bounded, has its own file.
"""

from __future__ import annotations

Labels = tuple[str, ...]


class Measures:
    """The series of one worker since its start."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, Labels], float] = {}
        self.gauges: dict[tuple[str, Labels], float] = {}
        self.histograms: dict[tuple[str, Labels], list[float]] = {}

    def count(self, family: str, labels: Labels = (), n: float = 1) -> None:
        """Add *n* to a counter."""
        key = family, labels
        self.counts[key] = self.counts.get(key, 0) + n

    def gauge(self, family: str, value: float, labels: Labels = ()) -> None:
        """Set a gauge."""
        self.gauges[family, labels] = value

    def observe(self, family: str, seconds: float, labels: Labels = ()) -> None:
        """Add one observation to a histogram."""
        self.histograms.setdefault((family, labels), []).append(seconds)
