"""Invariant: a worker reports each change once, in a bounded number of series, whatever the labels are."""

import re
from pathlib import Path

import pytest

import workers
from velocity_edge.status.families import FAMILIES
from workers.measures import Measures

REQUESTS = "velocity_upstream_requests_total"
TIMES = "velocity_upstream_request_duration_seconds"
HEALTHY = "velocity_upstream_healthy"
REFUSED = "velocity_metric_series_refused_total"


def test_changes_have_each_changed_series_once_with_its_total() -> None:
    measures = Measures()
    measures.count(REQUESTS, ("a", "200"))
    measures.count(REQUESTS, ("a", "200"), 2)
    measures.gauge(HEALTHY, 0, ("a",))
    assert measures.changes() == {REQUESTS: [(("a", "200"), [3])], HEALTHY: [(("a",), [0])]}
    assert measures.changes() == {}
    measures.count(REQUESTS, ("a", "200"))
    measures.gauge(HEALTHY, 0, ("a",))  # the same value
    assert measures.changes() == {REQUESTS: [(("a", "200"), [4])]}
    measures.everything()
    assert measures.changes() == {REQUESTS: [(("a", "200"), [4])], HEALTHY: [(("a",), [0])]}


def test_an_observation_is_in_the_first_bucket_that_is_large_enough() -> None:
    measures = Measures()
    bounds = FAMILIES[TIMES].buckets
    series = measures.histogram(TIMES, ("a",))
    for value in (bounds[0], bounds[0] * 1.5, bounds[-1] + 1, -5.0):
        series.observe(value)
    [[(labels, numbers)]] = measures.changes().values()
    assert labels == ("a",)
    assert len(numbers) == FAMILIES[TIMES].width
    assert numbers[0] == pytest.approx(bounds[0] * 2.5 + bounds[-1] + 1)
    assert numbers[1:3] == [2, 1]
    assert numbers[-1] == 1
    assert sum(numbers[1:]) == 4


def test_series_above_the_bound_are_counted_as_other() -> None:
    measures = Measures()
    bound = FAMILIES[HEALTHY].max_series
    for n in range(bound + 10):
        measures.count("velocity_rate_limited_total", (str(n),))
    found = measures.changes()
    series = dict(found["velocity_rate_limited_total"])
    assert len(series) == bound
    assert series["other",] == [11]
    assert found[REFUSED] == [(("velocity_rate_limited_total",), [11])]


def test_a_forgotten_series_is_reported_once_unless_it_exists_again() -> None:
    measures = Measures()
    measures.gauge(HEALTHY, 1, ("a",))
    measures.gauge(HEALTHY, 1, ("b",))
    measures.forget(HEALTHY, ("a",))
    measures.forget(HEALTHY, ("never",))
    measures.forget(HEALTHY, ("b",))
    measures.gauge(HEALTHY, 1, ("b",))
    assert measures.forgotten() == {HEALTHY: [("a",)]}
    assert measures.forgotten() == {}
    assert measures.changes() == {HEALTHY: [(("b",), [1])]}


@pytest.mark.parametrize("labels", [(), ("a", "b")])
def test_another_number_of_labels_is_a_bug(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="labels"):
        Measures().count("velocity_rate_limited_total", labels)


def test_families_are_well_formed() -> None:
    for name, family in FAMILIES.items():
        assert name.startswith("velocity_")
        assert name.endswith("_total") == (family.kind == "counter"), name
        assert (family.kind == "histogram") == bool(family.buckets), name
        assert list(family.buckets) == sorted(set(family.buckets)), name
        assert family.help.endswith("."), name


def test_what_workers_measure_is_declared() -> None:
    """A name that is not raises where it is measured, perhaps in a rare case."""
    root = Path(workers.__file__).parent
    named = {name for path in root.rglob("*.py") for name in re.findall(r'"(velocity_[a-z0-9_]+)"', path.read_text())}
    assert len(named) > 15
    assert named - {"velocity_edge"} <= set(FAMILIES)
