"""Invariant: an installation that could not start is refused with its reason; nothing is replaced before the check."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.chores import upgrades
from supervisor.chores.upgrades import Upgrades, checked_version
from supervisor.node.lifecycle import NodeState
from velocity_edge.errors import CannotDo


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (["/nowhere/python"], "the new program does not start: No such file"),
        ([sys.executable, "-c", "import sys; sys.exit('velocity-edge: cannot start: it is a test')"], "it is a test"),
        ([sys.executable, "-c", "import sys; sys.exit(7)"], "it ends with 7"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "no answer for 0.3 s"),
    ],
)
def test_an_installation_that_does_not_start_is_refused(
    program: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrades, "_CHECK_TIMEOUT_S", 0.3 if "sleep" in str(program) else 30.0)
    with pytest.raises(CannotDo, match=said):
        asyncio.run(checked_version(program))


def test_an_installation_that_starts_returns_its_version() -> None:
    assert asyncio.run(checked_version([sys.executable, "-c", "print('9.9.9')"])) == "9.9.9"


class Shell:
    """What an upgrade uses of the shell."""

    def __init__(self, state: NodeState, *, rolling: bool = False) -> None:
        rollout = SimpleNamespace(running=rolling, progress="core 0 (1 of 2)")
        self.node = SimpleNamespace(state=state, rollout=rollout)
        self.replaced: list[list[str]] = []

    def replace(self, program: list[str]) -> None:
        self.replaced.append(program)


def upgraded(shell: Any, monkeypatch: pytest.MonkeyPatch, check: Any) -> str:
    monkeypatch.setattr(upgrades, "checked_version", check)
    monkeypatch.setattr(sys, "argv", ["supervisor", "--set", "{}", "--roll"])
    return asyncio.run(Upgrades(shell).upgrade())


def test_the_new_program_gets_the_same_options_and_restarts_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    async def check(command: list[str]) -> str:
        asked.append(command)
        return "9.9.9"

    shell = Shell(NodeState.SERVING)
    assert upgraded(shell, monkeypatch, check) == "9.9.9"
    program = [sys.executable, "-I", "-m", "supervisor", "--set", "{}"]
    assert (asked, shell.replaced) == ([[*program, "--check"]], [[*program, "--roll"]])


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("state", "rolling", "said"),
    [
        (NodeState.STARTING, False, "cannot upgrade: the node is starting"),
        (NodeState.STOPPING, False, "cannot upgrade: the node is stopping"),
        (NodeState.SERVING, True, r"cannot upgrade: a restart is under way, core 0 \(1 of 2\)"),
    ],
)
def test_a_state_that_forbids_an_upgrade_also_does_so_after_the_check(
    monkeypatch: pytest.MonkeyPatch, state: NodeState, rolling: bool, said: str, late: bool
) -> None:
    shell = Shell(NodeState.SERVING) if late else Shell(state, rolling=rolling)

    async def check(command: list[str]) -> str:
        shell.node.state, shell.node.rollout.running = state, rolling
        return "9.9.9"

    with pytest.raises(CannotDo, match=said):
        upgraded(shell, monkeypatch, check)
    assert shell.replaced == []


def test_a_second_upgrade_is_refused_while_the_first_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    shell: Any = Shell(NodeState.SERVING)
    both: list[Upgrades] = [Upgrades(shell)]

    async def check(command: list[str]) -> str:
        with pytest.raises(CannotDo, match="an upgrade is under way"):
            await both[0].upgrade()
        return "9.9.9"

    monkeypatch.setattr(upgrades, "checked_version", check)
    assert asyncio.run(both[0].upgrade()) == "9.9.9"
    assert len(shell.replaced) == 1
