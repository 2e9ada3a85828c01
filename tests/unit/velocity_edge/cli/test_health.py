"""Invariant: `health` has one exit code for each state, as probes and deployment scripts expect it."""

from __future__ import annotations

import json

import pytest

from tests.support.command_line import run_verb
from tests.support.pretend_admin import PretendAdmin, sample_status
from velocity_edge.cli.health import verdict


@pytest.mark.parametrize(
    ("state", "degraded", "options", "code"),
    [
        ("serving", [], {}, 0),
        ("serving", ["x"], {}, 6),
        ("serving", [], {"ready": True}, 0),
        ("quiescing", [], {}, 0),
        ("quiesced", [], {}, 0),
        ("quiesced", ["x"], {}, 6),
        ("quiesced", [], {"ready": True}, 1),
        ("starting", [], {}, 1),
        ("starting", ["x"], {"live": True}, 6),
        ("stopping", [], {"live": True}, 0),
    ],
)
def test_each_state_has_its_exit_code(state: str, degraded: list[str], options: dict[str, bool], code: int) -> None:
    found = sample_status()
    found["state"], found["degraded"] = state, degraded
    assert verdict(found, **options)[0] == code


def test_health_counts_active_connections(node: PretendAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(capsys, "health") == (0, "serving, 2403 active connections\n", "")
    _, out, _ = run_verb(capsys, "health", "--json")
    assert json.loads(out)["active_connections"] == 2403
