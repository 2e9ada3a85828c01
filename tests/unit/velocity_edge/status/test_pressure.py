"""Invariant: a rule is logged when it begins, at most once a minute while it lasts, and when it ends."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bpf import verdicts
from velocity_edge.status.pressure import QUIET_S, REMIND_S, RULES, Line, Pressure, Rule, totals_of
from velocity_edge.wire.counters import TOTALS

ONE = Rule("one", "something is refused (max_something)", ("a", "b"))
MANY = Rule("many", "much is dropped", ("c",), at_least=10)


class Node:
    """Counters that grow, observed once a second."""

    def __init__(self) -> None:
        self.pressure = Pressure((ONE, MANY))
        self.totals = {"a": 5, "b": 0, "c": 0}
        self.now_s = 100.0
        self.said: list[tuple[float, Line]] = []
        self.look()

    def look(self) -> None:
        self.said += [(self.now_s, line) for line in self.pressure.observe(self.totals, self.now_s)]

    def second(self, **grown: int) -> None:
        self.now_s += 1
        for name, number in grown.items():
            self.totals[name] += number
        self.look()

    def texts(self) -> list[str]:
        return [line.text for _, line in self.said]


def test_every_rule_names_existing_counters() -> None:
    stages = {f"{stage}.{verdict}" for stage, names in verdicts.STAGES.items() for verdict in names}
    for rule in RULES:
        assert rule.counters
        assert set(rule.counters) <= set(TOTALS) | stages, rule.name
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_the_operations_guide_explains_every_rule() -> None:
    guide = (Path(__file__).parents[4] / "docs" / "operations.md").read_text()
    table = guide.partition("## Under pressure")[2].partition("\n## ")[0]
    explained = {
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert {rule.name for rule in RULES} <= explained


def test_without_pressure_no_rule_is_in_force() -> None:
    node = Node()
    for _ in range(100):
        node.second(c=9)
    assert (node.said, node.pressure.in_force) == ([], {})


def test_counts_from_before_the_first_look_are_ignored() -> None:
    pressure = Pressure((ONE,))
    assert pressure.observe({"a": 1_000_000}, 5.0) == []
    assert pressure.in_force == {}


def test_a_rule_lasts_from_the_first_busy_second_until_the_quiet_time_has_passed() -> None:
    node = Node()
    node.second(a=3, b=4)
    assert node.texts() == ["under pressure: something is refused (max_something): 7 per second"]
    episode = node.pressure.in_force["one"]
    assert (episode.since_s, episode.total, episode.per_s()) == (100.0, 7, 7.0)
    for _ in range(9):
        node.second(a=7)
    assert (episode.total, episode.per_s()) == (70, 7.0)
    for _ in range(int(QUIET_S) - 1):
        node.second()
        assert "one" in node.pressure.in_force
    assert episode.per_s() == 0
    node.second()
    assert node.pressure.in_force == {}
    assert node.texts()[1:] == ["over: something is refused (max_something): 70 in 10 s"]
    assert [line.over for _, line in node.said] == [False, True]


def test_a_rule_in_force_is_logged_once_a_minute() -> None:
    node = Node()
    for _ in range(301):
        node.second(a=1000)
    assert [at_s - 101 for at_s, _ in node.said] == [0, 60, 120, 180, 240, 300]
    assert node.texts()[-1] == (
        "still under pressure: something is refused (max_something): 1000 per second, 301000 in all"
    )


def test_counts_below_the_threshold_neither_begin_nor_extend_a_rule() -> None:
    node = Node()
    node.second(c=10)
    for _ in range(int(QUIET_S)):
        node.second(c=9)
    assert [line.over for _, line in node.said] == [False, True]


def test_a_counter_that_restarts_counts_as_unchanged() -> None:
    node = Node()
    node.totals["a"] = 0
    node.second()
    assert node.said == []
    node.second(a=2)
    assert node.pressure.in_force["one"].total == 2


def test_a_late_look_counts_per_second() -> None:
    node = Node()
    node.now_s += 9
    node.second(c=99)
    assert node.said == []
    node.now_s += 9
    node.second(c=100)
    assert node.texts() == ["under pressure: much is dropped: 10 per second"]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 50)), max_size=200))
def test_lines_are_bounded_and_every_beginning_has_an_end(history: list[tuple[int, int]]) -> None:
    node = Node()
    for seconds, number in history:
        for _ in range(seconds):
            node.second(a=number % 3, c=number)
    for _ in range(int(QUIET_S)):
        node.second()
    assert node.pressure.in_force == {}
    for rule in ("one", "many"):
        said = [(at_s, line) for at_s, line in node.said if line.rule == rule]
        begun = [at_s for at_s, line in said if line.text.startswith("under")]
        assert len(begun) == sum(line.over for _, line in said)
        assert all(later - earlier > QUIET_S for earlier, later in itertools.pairwise(begun))
        reminders = [at_s for at_s, line in said if line.text.startswith("still")]
        assert all(later - earlier >= REMIND_S for earlier, later in itertools.pairwise(reminders))


def test_counters_of_workers_and_packet_programs_are_merged() -> None:
    assert totals_of({"a": 1}, {"xdp": {"dropped_denied": 2}, "worker": {"a": 1}}) == {
        "a": 1,
        "xdp.dropped_denied": 2,
        "worker.a": 1,
    }
