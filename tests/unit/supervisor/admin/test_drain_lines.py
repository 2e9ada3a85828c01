"""Invariant: a line of a drain has the facts of the status under their names, and one text that people can read."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, cast

import pytest

from supervisor.admin.drain_lines import clock, drain_line, many, since, utc, who
from velocity_edge.admin.answers import DrainProgress
from velocity_edge.status.document import Connection, Drain

BEGAN_S = 1_700_000_000.0


def drain(**changes: Any) -> Drain:
    facts: dict[str, Any] = {
        "phase": "live",
        "running": True,
        "reason": "CHG-1",
        "since_at_s": BEGAN_S,
        "phase_at_s": BEGAN_S + 10,
        "hard_stop_at_s": BEGAN_S + 90,
        "new_per_s": 0.25,
        "settle_below_per_s": 1.0,
        "settle_s": 30.0,
        "quiet_s": 2.0,
        "proof": "",
        "established": 3,
        "in_handshake": 1,
        "told": 2,
        "running_requests": 4,
        "decay_per_s": 0.5,
        "eta_s": 6.0,
        "lost": 0,
        "cut": 0,
        "verdict": "",
        "exit_code": None,
    }
    return cast("Drain", facts | changes)


def connection(site: str, age_s: float, requests: int) -> Connection:
    return {"worker_id": 1, "site": site, "age_s": age_s, "requests": requests}


@pytest.mark.parametrize("at_s", [0.0, 86_399.9, 86_400.0, BEGAN_S, BEGAN_S + 0.999, 4e9])
def test_the_time_of_day_is_that_of_the_c_library(at_s: float) -> None:
    assert utc(at_s) == time.strftime("%H:%M:%SZ", time.gmtime(at_s))


def test_words() -> None:
    assert clock(7 * 60 + 40.9) == "00:07:40"
    assert clock(-5) == "00:00:00"
    assert clock(100 * 3600) == "100:00:00"
    assert (many(1, "request"), many(0, "request")) == ("1 request", "0 requests")
    assert since(50_531.0, 50_592.0, "CHG-1") == "since 14:02:11Z (00:01:01 ago), CHG-1"
    left = [connection("a.example", 460.0, 1), connection("", 12.0, 0)]
    assert who(left, 2) == "2 connections are left: a.example 00:07:40 1 request, (no name) 00:00:12 0 requests"
    assert who(left[:1], 3) == "3 connections are left: a.example 00:07:40 1 request, ..."
    assert who([], 1) == "1 connection is left"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"phase": "routes"}, "T+20s   routes       writing the disable file /run/disabled; /readyz fails"),
        (
            {"phase": "arrivals"},
            "T+20s   arrivals     new=0.2/s established=3  expect: new<1/s for 30s (2s so far)",
        ),
        (
            {"phase": "arrivals", "new_per_s": None, "quiet_s": 0.0},
            "T+20s   arrivals     new=?/s established=3  expect: new<1/s for 30s",
        ),
        (
            {"phase": "quiesce"},
            "T+20s   quiesce      GOAWAY sent 2/3, established=3  expect: GOAWAY sent to all",
        ),
        (
            {},
            "T+20s   live         established=3 in_handshake=1 running=4 decay=0.5/s eta=~6s  "
            "expect: established=0, hard stop in 70s",
        ),
        (
            {"phase": "drained", "running": False, "established": 0, "in_handshake": 0, "verdict": "VERDICT: drained"},
            "T+10s   drained      established=0 in_handshake=0  VERDICT: drained",
        ),
    ],
)
def test_each_phase_has_its_text(changes: dict[str, Any], text: str) -> None:
    answer = drain_line(drain(**changes), BEGAN_S + 20, "2023-11-14T22:13:40Z", "/run/disabled", [])
    assert answer.text == text
    assert answer.exit_code is None


def test_facts_are_those_of_the_status() -> None:
    status, left = drain(), [connection("a.example", 1.0, 2)]
    facts = drain_line(status, BEGAN_S + 20, "2023-11-14T22:13:40Z", "/run/disabled", left).facts
    assert isinstance(facts, DrainProgress)
    found = dataclasses.asdict(facts)
    assert (found.pop("t_s"), found.pop("at"), found.pop("left")) == (20.0, "2023-11-14T22:13:40Z", left)
    assert found.pop("expect") == "established=0, hard stop in 70s"
    assert found == {name: status[name] for name in found}  # type: ignore[literal-required]
