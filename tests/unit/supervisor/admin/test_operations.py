"""Invariant: the last line of an operation says how it ended, also when another event came in between."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.admin.operations import Operations
from supervisor.node.agreement import Agreement
from supervisor.node.lifecycle import NodeState
from supervisor.node.state import ReloadResult
from velocity_edge.admin import requests
from velocity_edge.admin.answers import Answer, Reloaded


def reload(then: Callable[[Any], None]) -> Answer:
    """Ask for a reload that becomes revision 2; *then* is what happens to the node. Return the last line."""
    node = SimpleNamespace(reloading=Agreement(2, {1}, 0.0), last_reload=None, state=NodeState.SERVING)

    async def wait_for_change(timeout_s: float) -> None:
        then(node)

    shell: Any = SimpleNamespace(node=node, listeners=[], wait_for_change=wait_for_change)
    chores: Any = SimpleNamespace(reload=lambda: 2)

    async def play() -> Answer:
        return [line async for line in Operations(shell, chores, chores).reload(requests.Reload())][-1]

    return asyncio.run(play())


@pytest.mark.parametrize(("revision", "ok"), [(2, True), (2, False), (3, True), (3, False)])
def test_a_reload_that_the_watch_on_files_overtakes_ends_as_the_newer_one(revision: int, ok: bool) -> None:
    """The watch sees the same change a moment later: revision 3 has replaced 2."""

    def then(node: Any) -> None:
        node.reloading = None
        node.last_reload = ReloadResult(revision, ok, "" if ok else "worker 1 refused: no", 0.0)

    line = reload(then)
    assert line.exit_code == (0 if ok else 1)
    assert line.text == (f"revision {revision} is in use" if ok else "cannot reload: worker 1 refused: no")


def test_a_reload_waits_for_the_newer_one() -> None:
    looks = []

    def then(node: Any) -> None:
        looks.append(node.reloading)
        node.reloading = Agreement(3, {1}, 0.0) if len(looks) == 1 else None
        node.last_reload = ReloadResult(3, True, "", 0.0)

    assert reload(then).facts == Reloaded(revision=3)
    assert len(looks) == 2
