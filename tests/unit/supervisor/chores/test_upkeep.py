"""A reload that cannot be is refused with nothing changed and nothing left open; an upgrade that cannot be, too."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.admin import fields as wishes
from supervisor.admin.fields import Nonsense
from supervisor.chores import upkeep
from supervisor.chores.upkeep import Upkeep
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


# --- materials


def test_what_a_revision_names_is_opened_once_and_closed(tmp_path: Path) -> None:
    before = descriptors()
    made = materials.gather(3, config(tmp_path), tmp_path / "state")
    assert (made.revision, list(made.roots), len(made.chains)) == (3, [str(tmp_path)], 1)
    assert "velocity-edge self-signed" not in made.config_json
    made.close()
    made.close()
    assert descriptors() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tls": {}}, "cannot serve without a certificate"),
        ({"tls": {"certificate": "/nowhere", "private_key": "/nowhere"}}, "cannot use /nowhere: No such file"),
    ],
)
def test_what_is_missing_is_named_and_nothing_stays_open(tmp_path: Path, changes: Any, said: str) -> None:
    before = descriptors()
    with pytest.raises(ConfigError, match=said):
        materials.gather(1, config(tmp_path, **changes), tmp_path / "state")
    with pytest.raises(ConfigError, match=r"cannot use the root .*nowhere: No such file"):
        materials.gather(1, config(tmp_path / "nowhere"), tmp_path / "state")
    assert descriptors() == before


# --- reload and upgrade


class Shell:
    """What upkeep touches."""

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


def keeper(shell: Shell, load: Any) -> Upkeep:
    return Upkeep(shell, load, None, SimpleNamespace())  # type: ignore[arg-type]


def test_a_reload_is_tried_by_the_workers(tmp_path: Path) -> None:
    shell = Shell(config(tmp_path), tmp_path)
    assert keeper(shell, lambda: config(tmp_path, log_level="debug")).reload() == 2
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
        (lambda: config(Path("/nowhere")), "", "cannot use the root /nowhere"),
        (lambda: config(Path("/")), "cannot reload: the node is stopping", "the node is stopping"),
    ],
)
def test_a_reload_that_cannot_be_changes_nothing_and_is_remembered(
    tmp_path: Path, load: Any, refusal: str, said: str
) -> None:
    shell = Shell(config(tmp_path), tmp_path, refusal)
    before = descriptors()
    with pytest.raises((ConfigError, CannotDo), match=said):
        keeper(shell, load).reload()
    [*_, last] = shell.happened
    assert isinstance(last, ReloadFailed)
    assert said in last.reason
    assert (shell.materials, descriptors(), shell.began) == ({}, before, 1)
    # For nobody who waits, it is no error.
    keeper(shell, load).try_to_reload()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (["/nowhere/python"], "the new program does not start: No such file"),
        ([sys.executable, "-c", "import sys; sys.exit('velocity-edge: cannot start: it is a test')"], "it is a test"),
        ([sys.executable, "-c", "import sys; sys.exit(7)"], "it ends with 7"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "no answer for 0.3 s"),
    ],
)
def test_an_installation_that_would_not_start_is_not_become(
    program: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_CHECK_TIMEOUT_S", 0.3 if "sleep" in str(program) else 30.0)
    with pytest.raises(CannotDo, match=said):
        asyncio.run(upkeep._checked(program))


def test_one_that_would_start_says_its_version() -> None:
    assert asyncio.run(upkeep._checked([sys.executable, "-c", "print('9.9.9')"])) == "9.9.9"


# --- wishes


def test_fields_are_what_they_should_be() -> None:
    body = {"n": 5, "x": 0.5, "t": "CHG-1", "f": True, "reason": "why"}
    wishes.only(body, "n", "x", "t", "f")
    assert (wishes.number(body, "n", None), wishes.number({}, "n", 3.0), wishes.whole(body, "n")) == (5.0, 3.0, 5)
    assert (wishes.text(body, "t"), wishes.text({}, "t"), wishes.flag(body, "f"), wishes.flag({}, "f")) == (
        "CHG-1", "", True, False,
    )  # fmt: skip
    assert (wishes.done("x", 0)["ok"], wishes.done("x", 4)["ok"]) == (True, False)


@pytest.mark.parametrize("value", [None, True, -1, 1e9, float("nan"), float("inf"), "5", [], {}, 10**30])
def test_what_is_no_number_is_nonsense(value: object) -> None:
    with pytest.raises(Nonsense, match="a number, 0 or more, would be right"):
        wishes.number({"n": value}, "n", None)


def test_what_is_misspelt_or_something_else_is_nonsense() -> None:
    with pytest.raises(Nonsense, match="'fats': one of fast would be right"):
        wishes.only({"fats": 1}, "fast")
    with pytest.raises(Nonsense, match="a whole number would be right"):
        wishes.whole({"n": 1.5}, "n")
    for value in (5, "a\nb", "\x1b[31m", "a" * 501):
        with pytest.raises(Nonsense, match="one line of up to 500 characters"):
            wishes.text({"t": value}, "t")
    for value in (1, "yes", None):
        with pytest.raises(Nonsense, match="true or false would be right"):
            wishes.flag({"f": value}, "f")
