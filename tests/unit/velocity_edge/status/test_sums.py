"""Invariant: the node's counters are the sum of what its workers counted, and never fall when one ends."""

import json
import random
from typing import Any

import pytest

from velocity_edge.status.families import FAMILIES
from velocity_edge.status.sums import Sums

REQUESTS = "velocity_upstream_requests_total"
HEALTHY = "velocity_upstream_healthy"
TIMES = "velocity_upstream_request_duration_seconds"
REFUSED = "velocity_metric_series_refused_total"
A = ("a", "200")


def series(value: float, *labels: str) -> Any:
    return {REQUESTS: [(list(labels or A), [value])]}


def test_counters_of_ended_workers_remain_and_gauges_disappear() -> None:
    sums = Sums()
    sums.take(1, series(5) | {HEALTHY: [(["a"], [1])]})
    sums.take(2, series(7) | {HEALTHY: [(["a"], [1])]})
    assert sums.table() == {REQUESTS: {A: [12]}, HEALTHY: {("a",): [2]}}
    sums.take(1, series(6))
    sums.take(1, series(6))  # a repeated report changes nothing
    sums.ended(1)
    sums.ended(1)
    assert sums.table() == {REQUESTS: {A: [13]}, HEALTHY: {("a",): [1]}}


def test_histograms_are_added_number_by_number() -> None:
    sums = Sums()
    width = FAMILIES[TIMES].width
    sums.take(1, {TIMES: [(["a"], [0.5, *range(width - 1)])]})
    sums.take(2, {TIMES: [(["a"], [0.25, *[1] * (width - 1)])]})
    assert sums.table()[TIMES]["a",] == [0.75, *(n + 1 for n in range(width - 1))]


@pytest.mark.parametrize(
    "report",
    [
        {"velocity_of_tomorrow_total": [([], [1])]},
        {REQUESTS: [(["a"], [1])]},
        {REQUESTS: [(["a", "200", "c"], [1])]},
        {REQUESTS: [(list(A), [1, 2])]},
        {REQUESTS: [(list(A), [])]},
        {REQUESTS: [(list(A), [-1])]},
        {REQUESTS: [(list(A), [float("nan")])]},
        {REQUESTS: [(list(A), [float("inf")])]},
        {TIMES: [(["a"], [1.0])]},
    ],
)
def test_what_this_version_does_not_know_is_ignored(report: Any) -> None:
    sums = Sums()
    sums.take(1, report)
    assert not any(sums.table().values())


def test_a_worker_cannot_make_more_series_than_declared() -> None:
    sums = Sums()
    bound = FAMILIES[REQUESTS].max_series
    total = 0
    for worker in (1, 2, 3):
        sums.take(worker, {REQUESTS: [([f"{worker}-{n}", "200"], [1]) for n in range(bound)]})
        total += bound
        sums.ended(worker)
    found = sums.table()
    assert len(found[REQUESTS]) == bound + 1
    assert sum(value for [value] in found[REQUESTS].values()) == total
    assert found[REQUESTS]["other", "other"] == [2 * bound]
    assert found[REFUSED] == {(REQUESTS,): [2 * bound]}
    sums.take(4, {REQUESTS: [([f"x{n}", "200"], [1]) for n in range(3 * bound)]})
    assert len(sums._living[4][REQUESTS]) <= bound + 1


def test_a_series_ends_when_its_subject_is_gone_from_all_workers() -> None:
    sums = Sums()
    sums.take(1, series(5))
    sums.ended(1)
    sums.take(2, series(1))
    sums.take(3, series(1))
    sums.take(2, {}, {REQUESTS: [list(A)]})
    assert sums.table()[REQUESTS] == {A: [6]}
    sums.take(3, {}, {REQUESTS: [list(A)], "unknown": [["a"]]})
    assert not sums.table()[REQUESTS]


def test_a_successor_continues_whichever_workers_came_back() -> None:
    chance = random.Random(7)
    sums = Sums()
    for worker in range(1, 6):
        sums.take(worker, series(chance.randrange(100)) | {HEALTHY: [(["a"], [1])]})
    sums.ended(1)
    before = sums.table()
    document = json.loads(json.dumps(sums.to_json()))
    later = Sums.from_json(document, [2, 3])
    assert later.table()[REQUESTS] == before[REQUESTS]
    assert later.table()[HEALTHY] == {("a",): [2]}
    # The workers report all of it again.
    for worker in (2, 3):
        later.take(worker, {name: [(list(k), v) for k, v in t.items()] for name, t in sums._living[worker].items()})
    assert later.table()[REQUESTS] == before[REQUESTS]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"ended": 3, "living": []},
        {"living": {"x": {REQUESTS: [[["a", "200"], [1]]]}, "--1": {}, "9" * 5000: {}}},
        {"ended": {REQUESTS: [None, 3, [], [["a"]], [["a", 200], [1]], [["a", "200"], ["1"]], [["a", "200"], 1]]}},
    ],
)
def test_a_damaged_file_is_no_file(document: Any) -> None:
    assert not any(Sums.from_json(document, [1]).table().values())
