"""What a worker measures beside the fixed counters of its slab: series with labels, counters, gauges and histograms.

Families, with their labels and buckets, are declared in velocity_edge/status/families.py; another name, or another
number of labels, is a bug and raises. Values of labels come from the configuration or from fixed sets, never from a
peer, and the number of series is bounded: what exceeds it is counted in the series `other` of its family.

`count`, `gauge` and `observe` look their series up. Where something happens for each request, keep the series:

    slow = measures.histogram("velocity_http_request_duration_seconds", ("example.com",))
    slow.observe(0.0012)                        # about 0.2 us

The reporter sends what changed every second (`changes`), all of it to a new supervisor (`everything`). Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from velocity_edge.status.families import FAMILIES, OTHER, Family

Labels = tuple[str, ...]

_REFUSED: Final = "velocity_metric_series_refused_total"
#: Differs from every value, also from itself.
_NEVER: Final = math.nan


class Counter:
    """A number that grows."""

    __slots__ = ("sent", "value")

    def __init__(self) -> None:
        #: Public because it is incremented in place where each nanosecond counts.
        self.value: float = 0
        self.sent = _NEVER

    def add(self, n: float = 1) -> None:
        """Add *n*."""
        self.value += n

    def numbers(self) -> list[float]:
        """Return what is reported."""
        return [self.value]


class Gauge(Counter):
    """A number that goes up and down."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = value


class Histogram:
    """How many observations are at most as large as each bound of its family, and their sum."""

    __slots__ = ("bounds", "counts", "sent", "sum", "value")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        #: One for each bound, not cumulative, and the last for larger ones.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        #: Observations, as `Counter.value`.
        self.value: float = 0
        self.sent = _NEVER

    def observe(self, value: float) -> None:
        """Add one observation. A negative one (a clock was set) counts as 0."""
        if value < 0:
            value = 0.0
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        self.value += 1

    def numbers(self) -> list[float]:
        """Return what is reported: the sum, then the counts."""
        return [self.sum, *self.counts]


Series = Counter | Histogram
#: Family -> labels -> the numbers of the series.
Changes = dict[str, list[tuple[Labels, list[float]]]]


class Measures:
    """The series of one worker since its start."""

    def __init__(self) -> None:
        self._series: dict[str, dict[Labels, Series]] = {name: {} for name in FAMILIES}
        self._forgotten: dict[str, list[Labels]] = {}

    # --- series to keep ----------------------------------------------------------------------------------------------

    def counter(self, family: str, labels: Labels = ()) -> Counter:
        """Return the series of a counter."""
        series = self._find(family, labels)
        assert isinstance(series, Counter)
        return series

    def gauge_of(self, family: str, labels: Labels = ()) -> Gauge:
        """Return the series of a gauge."""
        series = self._find(family, labels)
        assert isinstance(series, Gauge)
        return series

    def histogram(self, family: str, labels: Labels = ()) -> Histogram:
        """Return the series of a histogram."""
        series = self._find(family, labels)
        assert isinstance(series, Histogram)
        return series

    # --- now and then ------------------------------------------------------------------------------------------------

    def count(self, family: str, labels: Labels = (), n: float = 1) -> None:
        """Add *n* to a counter."""
        self.counter(family, labels).value += n

    def gauge(self, family: str, value: float, labels: Labels = ()) -> None:
        """Set a gauge."""
        self.gauge_of(family, labels).value = value

    def observe(self, family: str, seconds: float, labels: Labels = ()) -> None:
        """Add one observation to a histogram."""
        self.histogram(family, labels).observe(seconds)

    def forget(self, family: str, labels: Labels) -> None:
        """Remove a series whose subject is gone, such as an upstream that the configuration has no more.

        Whoever kept it may go on adding; nobody reads it.
        """
        if self._series[family].pop(labels, None) is not None:
            self._forgotten.setdefault(family, []).append(labels)

    # --- reports -----------------------------------------------------------------------------------------------------

    def changes(self) -> Changes:
        """Return the series that changed since the last call."""
        found: Changes = {}
        for family, by_labels in self._series.items():
            changed = []
            for labels, series in by_labels.items():
                if series.value != series.sent:
                    series.sent = series.value
                    changed.append((labels, series.numbers()))
            if changed:
                found[family] = changed
        return found

    def forgotten(self) -> dict[str, list[Labels]]:
        """Return the series that were removed since the last call."""
        forgotten, self._forgotten = self._forgotten, {}
        # One that exists again since is no longer gone.
        gone = {name: [key for key in keys if key not in self._series[name]] for name, keys in forgotten.items()}
        return {name: keys for name, keys in gone.items() if keys}

    def everything(self) -> None:
        """Have the next `changes` return all series: for a supervisor that knows none."""
        self._forgotten = {}
        for series in self._all():
            series.sent = _NEVER

    def _all(self) -> Iterator[Series]:
        for by_labels in self._series.values():
            yield from by_labels.values()

    def _find(self, name: str, labels: Labels) -> Series:
        by_labels = self._series[name]
        series = by_labels.get(labels)
        if series is not None:
            return series
        family = FAMILIES[name]
        if len(labels) != len(family.labels):
            raise ValueError(f"{name} has the labels {family.labels}, not {labels}")
        if len(by_labels) >= family.max_series - 1 and labels != _others(family):
            self.count(_REFUSED, (name,))
            return self._find(name, _others(family))
        made: Series = (
            Histogram(family.buckets)
            if family.kind == "histogram"
            else Gauge()
            if family.kind == "gauge"
            else Counter()
        )
        by_labels[labels] = made
        return made


def _others(family: Family) -> Labels:
    return (OTHER,) * len(family.labels)
