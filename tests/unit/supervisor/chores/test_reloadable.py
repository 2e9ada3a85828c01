"""Invariant: a reload that needs a restart of the node, or workers that this machine cannot run, is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.chores import reloadable
from velocity_edge.config.model import Config
from velocity_edge.errors import CannotDo


def test_fixed_settings_are_refused_until_a_restart() -> None:
    content = {"content": {"sites": [{"hostname": "*", "root": "/"}]}, "server": {"tls": {"self_signed": True}}}
    fixed: dict[str, Any] = {
        "server": {"listen": "127.0.0.1:1"},
        "dispatch": {"mode": "socket"},
        "tickets": {"storage": "/elsewhere.json"},
    }
    before = Config.from_json(content)
    reloadable.refuse_fixed(before, before)
    for section, change in fixed.items():
        after = Config.from_json({**content, section: {**content.get(section, {}), **change}})
        with pytest.raises(CannotDo, match=f"a new value of {section}.{next(iter(change))} needs a restart"):
            reloadable.refuse_fixed(before, after)


def test_a_forgotten_setting_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloadable, "RESTART", reloadable.RESTART[:-1])
    with pytest.raises(pytest.fail.Exception):
        test_fixed_settings_are_refused_until_a_restart()


def config(**server: Any) -> Config:
    return Config.from_json({"server": server})


def test_what_a_revision_may_change_is_accepted() -> None:
    reloadable.refuse_fixed(config(), config(log_level="debug", workers=2))
    reloadable.refuse_workers(config(workers=2, engine="native", user="someone"), 2, "", "")


@pytest.mark.parametrize(
    ("workers", "engine_missing", "user_refused", "said"),
    [
        (3, "", "", "server.workers: 3 workers need a restart of the node, which was started with slots for 2"),
        (2, "no such file", "", "server.engine: cannot use the native engine: no such file"),
        (2, "", "cannot run workers as x", "server.user: cannot run workers as x"),
    ],
)
def test_workers_that_cannot_run_are_refused(workers: int, engine_missing: str, user_refused: str, said: str) -> None:
    with pytest.raises(CannotDo, match=f"^cannot reload: {said}"):
        reloadable.refuse_workers(config(workers=workers), 2, engine_missing, user_refused)
