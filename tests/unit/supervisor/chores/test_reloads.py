"""Invariant: a refused reload changes nothing, leaves nothing open, and its reason is kept."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.chores.reloads import Reloads
from supervisor.machine import materials
from supervisor.node.happenings import Happening, Reload, ReloadFailed
from velocity_edge.config.model import Config
from velocity_edge.errors import CannotDo, ConfigError


def config(root: Path, **server: Any) -> Config:
    return Config.from_json(
        {
            "server": {"tls": {"self_signed": True}, **server},
            "content": {"sites": [{"hostname": "*", "root": str(root)}]},
        }
    )


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Shell:
    """What a reload uses of the shell."""

    def __init__(self, active: Config, directory: Path, refusal: str = "") -> None:
        self.active = SimpleNamespace(config=active)
        self.materials: dict[int, materials.Materials] = {}
        self.places = SimpleNamespace(state=directory / "state")
        self.slots = SimpleNamespace(cores=2)
        self.happened: list[Happening] = []
        self.began = 0
        self._refusal = refusal

    def new_revision(self) -> int:
        return 2

    def reload_begins(self) -> None:
        self.began += 1

    def happen(self, happening: Happening) -> None:
        self.happened.append(happening)
        if isinstance(happening, Reload) and self._refusal:
            raise CannotDo(self._refusal)


def reloads(shell: Shell, load: Any) -> Reloads:
    return Reloads(shell, load, [], SimpleNamespace())  # type: ignore[arg-type]


def test_a_new_revision_is_given_to_the_workers(tmp_path: Path) -> None:
    shell = Shell(config(tmp_path), tmp_path)
    assert reloads(shell, lambda: config(tmp_path, log_level="debug")).reload() == 2
    assert shell.happened == [Reload(2)]
    assert shell.materials[2].config.server.log_level == "debug"
    shell.materials[2].close()


def broken() -> Config:
    raise ConfigError("serve.yaml:1:1: cannot")


@pytest.mark.parametrize(
    ("load", "refusal", "said"),
    [
        (broken, "", "serve.yaml:1:1: cannot"),
        (lambda: config(Path("/"), workers=3), "", "which was started with slots for 2"),
        (lambda: config(Path("/"), node_id=5), "", "a new value of server.node_id needs a restart"),
        (lambda: config(Path("/"), user="no-such-user"), "", "cannot reload: server.user: "),
        (lambda: config(Path("/nowhere")), "", "cannot use /nowhere"),
        (lambda: config(Path("/")), "cannot reload: the node is stopping", "the node is stopping"),
    ],
)
def test_a_refused_reload_changes_nothing_and_its_reason_is_kept(
    tmp_path: Path, load: Any, refusal: str, said: str
) -> None:
    shell = Shell(config(tmp_path), tmp_path, refusal)
    before = descriptors()
    with pytest.raises((ConfigError, CannotDo), match=said):
        reloads(shell, load).reload()
    [*_, last] = shell.happened
    assert isinstance(last, ReloadFailed)
    assert said in last.reason
    assert (shell.materials, descriptors(), shell.began) == ({}, before, 1)
    # Without a caller that waits, it raises nothing.
    reloads(shell, load).try_to_reload()
