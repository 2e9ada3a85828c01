"""Invariant: a server gets requests while its probes are good and its failures are few; what is over is forgiven."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.proxy.health import ActiveRules, Health, PassiveRules


def health(passes: int = 2, fails: int = 3, failures: int = 2) -> Health:
    return Health(ActiveRules(passes, fails), PassiveRules(failures, window_s=10.0, ejection_s=5.0))


def test_a_server_is_healthy_until_so_many_probes_fail_in_a_row() -> None:
    server = health()
    assert server.usable(0)
    assert [server.on_probe(good, "x") for good in (False, False, True, False, False)] == [False] * 5
    assert server.usable(0)
    assert server.on_probe(False, "status 503")
    assert not server.usable(0)
    assert server.reason == "status 503"


def test_it_is_healthy_again_after_so_many_good_probes_in_a_row() -> None:
    server = health(fails=1)
    server.on_probe(False, "x")
    assert not server.on_probe(True)
    assert not server.on_probe(False)
    assert not server.on_probe(True)
    assert server.on_probe(True)
    assert server.usable(0)
    assert server.reason == ""


def test_failures_within_the_window_eject_it_for_a_time() -> None:
    server = health()
    assert not server.on_attempt(True, 0.0, "connection refused")
    assert server.on_attempt(True, 9.9, "connection refused")
    assert not server.usable(10.0)
    assert server.ejected(14.8)
    assert server.usable(14.9)
    assert server.ejections == 1


def test_failures_further_apart_than_the_window_do_not() -> None:
    server = health()
    assert not server.on_attempt(True, 0.0)
    assert not server.on_attempt(True, 10.0)
    assert server.usable(10.0)


def test_one_failure_on_trial_ejects_it_twice_as_long_up_to_a_bound() -> None:
    server, now_s, times = health(), 0.0, []
    server.on_attempt(True, now_s)
    server.on_attempt(True, now_s)
    for _ in range(7):
        begun_s = now_s
        while not server.usable(now_s):
            now_s += 1.0
        times.append(now_s - begun_s)
        assert server.on_attempt(True, now_s)
    assert times == [5, 10, 20, 40, 80, 80, 80]


def test_one_success_on_trial_ends_the_trial() -> None:
    server = health()
    server.on_attempt(True, 0.0)
    server.on_attempt(True, 0.0, "refused")
    assert server.usable(5.0)
    server.on_attempt(False, 5.0)
    assert server.reason == ""
    assert not server.on_attempt(True, 5.0)
    assert server.on_attempt(True, 5.0)
    assert server.usable(10.0)


def test_attempts_during_an_ejection_change_nothing() -> None:
    server = health()
    server.on_attempt(True, 0.0)
    server.on_attempt(True, 0.0)
    assert not server.on_attempt(True, 1.0)
    assert not server.on_attempt(False, 1.0)
    assert server.ejected(4.9)
    assert server.ejections == 1


def test_a_probe_that_passes_again_ends_an_ejection() -> None:
    server = health(passes=1, fails=1)
    server.on_attempt(True, 0.0)
    server.on_attempt(True, 0.0)
    server.on_probe(False, "x")
    assert server.on_probe(True)
    assert server.usable(0.1)


def test_passive_checks_can_be_switched_off() -> None:
    server = health(failures=0)
    assert not any(server.on_attempt(True, 0.0) for _ in range(100))
    assert server.usable(0.0)


@given(st.lists(st.tuples(st.sampled_from(["good", "bad", "done", "failed"]), st.floats(0, 8)), max_size=60))
def test_a_server_without_bad_results_comes_back(steps: list[tuple[str, float]]) -> None:
    server, now_s = health(), 0.0
    for what, later_s in steps:
        now_s += later_s
        if what in ("good", "bad"):
            server.on_probe(what == "good", "bad")
        else:
            server.on_attempt(what == "failed", now_s, "failed")
    server.on_probe(True)
    server.on_probe(True)
    assert server.usable(now_s + 81)
