"""The series of workers (families.py) as Prometheus' metrics. Pure.

Every family is on the page before it has a series, so that dashboards and alerts can refer to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from velocity_edge.status.families import FAMILIES, Family
from velocity_edge.status.metric_names import NOT_COMPLETED
from velocity_edge.status.sums import Labels, Table


def series_metrics(measured: Table, counters: Mapping[str, int]) -> Iterator[Metric]:
    """Yield every family with its series. *counters* of the slab complete velocity_handshakes_total."""
    for family in FAMILIES.values():
        series = measured.get(family.name, {})
        match family.kind:
            case "histogram":
                yield _histogram(family, series)
            case "gauge":
                gauge = GaugeMetricFamily(family.name, family.help, labels=family.labels)
                for labels, [value] in series.items():
                    gauge.add_metric(labels, value)
                yield gauge
            case "counter":
                counter = CounterMetricFamily(family.name, family.help, labels=family.labels)
                for labels, [value] in series.items():
                    counter.add_metric(labels, value)
                if not family.labels and not series:
                    counter.add_metric((), 0)
                if family.name == "velocity_handshakes_total":
                    for result, name in NOT_COMPLETED.items():
                        counter.add_metric(("", "", "", result, ""), counters[name])
                yield counter


def _histogram(family: Family, series: Mapping[Labels, list[float]]) -> Metric:
    histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    bounds = [*map(floatToGoString, family.buckets), "+Inf"]
    for labels, [total, *counts] in series.items():
        histogram.add_metric(labels, [*zip(bounds, accumulate(counts), strict=True)], total)
    return histogram
