"""The hitless experiment can fail: each loss, and each packet that is unaccounted for, is reported."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.hitless.flat import Bound, trend
from tests.hitless.flat import table as flat_table
from tests.hitless.ledger import Counts, lines, problems, table
from tests.hitless.load import Facts
from tests.hitless.node import Kill
from tests.hitless.outcome import Outcome, Row, judge, report, verdict
from tests.hitless.plan import Done, Hands

GOOD = {
    "connections_lost": 0, "handshakes_failed": 0, "requests_failed": 0, "connections_moved": 2, "retried": 1,
    "migrations": 0, "handshakes": 3, "requests": 9,
}  # fmt: skip


def outcome(*events: dict[str, object], kills: tuple[Kill, ...] = (), said: dict[str, int] | None = None) -> Outcome:
    made = Outcome("velocity-edge", "", 1, 60.0, {}, {"reload": 1}, [Done("reload", 10.0, 11.0, "")], kills)
    facts = Facts([{"sample": "short", "at_s": 0.0, "ms": 1.0}, *events], {"short": {**GOOD, **(said or {})}})
    judge(made, facts)
    return made


def loss(
    what: str, began_s: float, at_s: float, *, migrated: bool = False, alone: bool = True, unanswered: bool = False
) -> dict[str, object]:
    facts = {"loss": what, "kind": "short", "began_s": began_s, "at_s": at_s, "migrated": migrated}
    return {**facts, "alone": alone, "unanswered": unanswered, "error": "silence"}


def test_a_run_without_losses_passes() -> None:
    assert verdict(outcome()) == []


def test_each_loss_fails_the_run_with_its_time() -> None:
    for what, column in (
        ("connection", "connections_lost"), ("handshake", "handshakes_failed"), ("request", "requests_failed")
    ):  # fmt: skip
        made = outcome(loss(what, 5.0, 10.5), said={column: 1})
        assert len(verdict(made)) == 1, what
        assert "short (well at 5.00)" in made.lost_at[0]
        assert made.lost_at[0].endswith("reload")


def test_loss_is_attributed_to_a_killed_worker_only_near_the_kill() -> None:
    kill = (Kill(20.0, 7, 30),)
    reset = outcome({"reset": "short", "began_s": 19.0, "at_s": 20.1}, kills=kill)
    assert (verdict(reset), reset.rows["short"].reset) == ([], 1)
    assert verdict(outcome(loss("connection", 21.1, 29.0), kills=kill, said={"connections_lost": 1}))
    assert verdict(outcome({"reset": "short", "began_s": 5.0, "at_s": 6.0}, kills=kill)), "reset without a kill"


def test_missing_reset_of_a_killed_worker_fails_the_run_except_after_migration() -> None:
    kill = (Kill(20.0, 7, 30),)
    silent = outcome(loss("request", 19.0, 28.0), kills=kill, said={"requests_failed": 1})
    assert verdict(silent) == ["1 connections of killed workers were not told by a reset"]
    moved = outcome(loss("request", 19.0, 28.0, migrated=True), kills=kill, said={"requests_failed": 1})
    assert (verdict(moved), moved.migrated) == ([], 1)
    cut = outcome(loss("handshake", 19.0, 28.0, unanswered=True), kills=kill, said={"handshakes_failed": 1})
    assert (verdict(cut), cut.cut_handshakes) == ([], 1)


def test_more_losses_than_connections_of_killed_workers_fail_the_run() -> None:
    events = [{"reset": "short", "began_s": 19.0, "at_s": 20.1} for _ in range(80)]
    assert verdict(outcome(*events, kills=(Kill(20.0, 7, 30),)))


def test_slow_clients_of_killed_workers_fail_the_run() -> None:
    back = [{"back": "short", "at_s": 20.2, "ms": 900.0}]
    assert verdict(outcome(*back, kills=(Kill(20.0, 7, 30),)))


def test_planned_change_that_was_not_made_fails_the_run() -> None:
    made = outcome()
    made.planned["restart"] = 2
    assert verdict(made) == ["restart: 0 of 2"]


def test_curl_uploads_count_when_complete() -> None:
    fact = {"kind": "upload", "began_s": 1.0, "at_s": 2.0, "exit_code": 0, "status": 200, "down": 9, "error": ""}
    for up, lost in ((500_000, 0), (400_000, 1)):
        made = Outcome("velocity-edge", "", 1, 60.0, {}, {}, [], [])
        judge(made, Facts([{"sample": "short", "at_s": 0.0, "ms": 1.0}], {}, [{**fact, "up": up}]))
        assert made.rows["curl upload"].requests_failed == lost


COUNTS = Counts(
    client_sent=100,
    client_dropped=0,
    xdp={"passed_not_ours": 5, "passed_initial": 10, "passed_known_worker": 80, "dropped_malformed": 5},
    select={"selected_known_worker": 40, "selected_new": 10, "dropped_no_socket": 0},
    udp={"InDatagrams": 50, "NoPorts": 0, "RcvbufErrors": 0},
    workers={
        "datagrams_received": 90, "datagrams_injected": 2, "verdict_delivered": 90, "verdict_handed_over": 2,
        "receive_calls": 50, "handover_full": 0,
    },
)  # fmt: skip


def test_exact_counts_have_no_problem() -> None:
    assert problems(COUNTS) == []
    assert table(COUNTS).count("exact") == len(lines(COUNTS))


def test_missing_packet_is_found_at_each_stage() -> None:
    for wrong in (
        replace(COUNTS, client_sent=101),
        replace(COUNTS, xdp={**COUNTS.xdp, "passed_initial": 11}, client_sent=101),
        replace(COUNTS, select={**COUNTS.select, "selected_new": 11}),
        replace(COUNTS, udp={**COUNTS.udp, "NoPorts": 1}),
        replace(COUNTS, udp={**COUNTS.udp, "InDatagrams": 49}),
        replace(COUNTS, workers={**COUNTS.workers, "verdict_delivered": 91}),
        replace(COUNTS, workers={**COUNTS.workers, "verdict_handed_over": 3, "verdict_delivered": 89}),
        replace(COUNTS, kills=1, most_per_s=20, workers={**COUNTS.workers, "datagrams_received": 91}),
    ):
        assert problems(wrong), wrong


def test_killed_worker_explains_at_most_one_second_of_packets() -> None:
    workers = {**COUNTS.workers, "datagrams_received": 70, "verdict_delivered": 70, "receive_calls": 35}
    assert problems(replace(COUNTS, workers=workers))
    assert problems(replace(COUNTS, workers=workers, kills=1, most_per_s=30)) == []
    assert problems(replace(COUNTS, workers=workers, kills=1, most_per_s=10))


def test_packets_waiting_in_an_empty_slot_are_accounted_for() -> None:
    select = {**COUNTS.select, "selected_new": 11}
    xdp = {**COUNTS.xdp, "passed_initial": 12}
    more = replace(COUNTS, client_sent=102, xdp=xdp, select=select)
    assert problems(more)
    assert problems(replace(more, waiting_trains=1, waiting_packets=2)) == []


def test_the_report_has_a_row_for_each_kind_of_work_and_the_sum() -> None:
    made = outcome()
    made.rows["upload"] = Row(requests=1)
    text = report(made)
    assert "| upload | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 1 |" in text
    assert "| **all** | **0** | **0** | **0** | **0** | **0** | **2** | **1** | **0** | **3** | **10** |" in text


def test_leak_is_found_and_noise_is_not() -> None:
    seconds = [float(n) for n in range(0, 600, 5)]
    noise = [(s, 50.0 + (s * 7 % 3) / 10) for s in seconds]
    assert trend("memory", "MiB", noise, Bound(2.0)).flat
    leak = [(s, value + s * 0.01) for s, value in noise]
    found = trend("memory", "MiB", leak, Bound(2.0))
    assert not found.flat
    assert found.per_minute == pytest.approx(0.6, abs=0.02)
    warm_up = [(s, min(50.0, 30 + s)) for s in seconds]
    assert trend("memory", "MiB", warm_up, Bound(2.0)).flat, "the beginning is not judged"
    peak = [(s, 100.0 if s == 300 else 1.0) for s in seconds]
    assert not trend("ids", "entries", peak, Bound(30.0, 40.0)).flat
    assert "**grows**" in flat_table([found])


def test_failed_change_is_repeated_and_only_successes_count() -> None:
    answers = {"restart": iter(["exit 3: no answer", "", "", ""]), "reload": iter(["", ""])}
    hands = Hands({kind: lambda kind=kind: next(answers[kind]) for kind in answers}, random.Random(1), pause_s=0.0)
    hands.run({"restart": 3, "reload": 2, "dance": 5}, 1.0)
    assert hands.succeeded() == {"restart": 3, "reload": 2}
    assert [one.note for one in hands.done if one.note] == ["exit 3: no answer"]


def test_change_that_never_succeeds_is_given_up() -> None:
    hands = Hands({"restart": lambda: "exit 1", "reload": lambda: str(1 / 0)}, random.Random(1), pause_s=0.0)
    hands.run({"restart": 1, "reload": 1}, 0.5)
    assert hands.succeeded() == {}
    assert {one.note for one in hands.done} == {"exit 1", "ZeroDivisionError: division by zero"}
