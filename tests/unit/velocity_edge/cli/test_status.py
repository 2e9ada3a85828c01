"""Invariant: `status` shows what the node reports on one screen, and `--json` prints it unchanged."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.command_line import run_verb
from tests.support.pretend_admin import PretendAdmin, sample_status
from velocity_edge.cli.health import verdict
from velocity_edge.cli.status import screen
from velocity_edge.status.document import Upstream


def test_status_is_one_screen_without_colour(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_verb(capsys, "status")
    assert code == 0
    assert "\x1b" not in out
    assert len(out.splitlines()) <= 24
    assert out.splitlines()[0].startswith("serving  0.0.0.0:4433  tier B: eBPF on the sockets  up ")
    assert "not tier C (xdp): no interface is named" in out
    assert "90.0 % post-quantum: X25519MLKEM768 900, classical 100" in out
    assert "delivered 530, dropped_malformed 2" in out


def test_status_as_json_is_the_answer_of_the_node(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_verb(capsys, "status", "--json")
    assert (code, json.loads(out)) == (0, sample_status())


def test_status_shows_degraded_states_and_expired_certificates() -> None:
    found = sample_status()
    found["degraded"] = ["the receive buffer is small"]
    found["last_reload"] = {
        "revision": 4, "ok": False, "reason": "s.yaml:1:1: cannot", "at_s": 1_000_000.0, "took_s": 0.1
    }  # fmt: skip
    text = screen(found, 1_000_000.0 + 91 * 86400)
    assert "DEGRADED: the receive buffer is small" in text
    assert "HAS EXPIRED" in text
    assert "was refused: s.yaml:1:1: cannot (revision 4)" in text


def test_status_shows_pressure_which_does_not_affect_the_exit_code() -> None:
    found = sample_status()
    found["pressure"] = [
        {
            "rule": "retry",
            "text": "new clients must validate",
            "since_at_s": 1_000_000.0,
            "per_s": 1380.4,
            "total": 16560,
        }
    ]
    line = "PRESSURE: new clients must validate: 1 380/s for 12 s, 16 560 in all (retry)"
    assert line in screen(found, 1_000_012.0).splitlines()
    assert verdict(found)[0] == 0


def test_status_has_a_row_for_each_upstream() -> None:
    found = sample_status()
    row: Upstream = {
        "upstream": "http://10.0.0.1:8080", "healthy_workers": 0, "requests": 1200, "errors_5xx": 3, "failed": 2,
        "retries": 1, "ejections": 4, "running": 5, "idle": 6, "p50_s": 0.0012, "p99_s": None,
    }  # fmt: skip
    found["upstreams"] = [row, {**row, "upstream": "unix:/x", "healthy_workers": 2}]
    lines = screen(found, 1_000_012.0).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("upstream "))
    names = [
        "upstream",
        "healthy",
        "running",
        "idle",
        "requests",
        "5xx",
        "failed",
        "retries",
        "ejections",
        "p50",
        "p99",
    ]
    assert lines[at].split() == names
    cells = ["http://10.0.0.1:8080", "NONE", "5", "6", "1 200", "3", "2", "1", "4", "1.2 ms", "-"]
    assert re.split(r" {2,}", lines[at + 1]) == cells
    assert lines[at + 2].split()[:2] == ["unix:/x", "2"]
