"""Which settings a reload can change."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.chores import reloadable
from tests.support.mutants import mutate
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
    mutate(monkeypatch, reloadable, '    ("tickets.storage", lambda c: c.tickets.storage),\n', "", "_FIXED")
    with pytest.raises(pytest.fail.Exception):
        test_fixed_settings_are_refused_until_a_restart()
