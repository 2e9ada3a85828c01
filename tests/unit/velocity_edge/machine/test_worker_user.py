"""Workers become an unprivileged user; they stay user id 0 only when none is available and none is configured."""

from __future__ import annotations

import pwd
from typing import Any

import pytest

from velocity_edge.errors import Unavailable
from velocity_edge.machine import worker_user
from velocity_edge.machine.worker_user import Rights, User, choose

ROOT = Rights(0)


@pytest.fixture(autouse=True)
def a_few_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with root, nobody and daemon."""
    found = {"root": (0, 0), "nobody": (65534, 65534), "daemon": (1, 7)}

    def getpwnam(name: str) -> Any:
        uid, gid = found[name]
        return pwd.struct_passwd((name, "x", uid, gid, "", "/", "/bin/false"))

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)


def test_workers_of_root_become_another_user() -> None:
    assert choose(None, ROOT).user == User("nobody", 65534, 65534)
    assert choose("daemon", ROOT).user == User("daemon", 1, 7)
    assert choose(None, ROOT).degraded == ""


def test_without_user_entries_nobody_is_the_overflow_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_is_there(name: str) -> Any:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", nobody_is_there)
    assert choose(None, ROOT).user == User("nobody", 65534, 65534)
    with pytest.raises(Unavailable, match="no such user"):
        choose("nobody", ROOT)


@pytest.mark.parametrize(
    ("rights", "reason"),
    [
        (Rights(0, missing=["CAP_SETUID"]), "to run them as daemon give the node CAP_SETUID "),
        (
            Rights(0, missing=["CAP_SETUID", "CAP_SETGID"]),
            "to run them as daemon give the node CAP_SETUID and CAP_SETGID ",
        ),
        (Rights(0, uids=[range(1)]), "this user namespace has no user id 1 for daemon"),
        (Rights(0, uids=[range(1), range(2, 9)]), "this user namespace has no user id 1 for daemon"),
        (Rights(0, gids=[range(7)]), "this user namespace has no group id 7 for daemon"),
        (Rights(0, may_set_groups=False), r"this user namespace forbids setgroups\(2\)"),
    ],
)
def test_a_configured_user_that_is_not_available_is_an_error(rights: Rights, reason: str) -> None:
    with pytest.raises(Unavailable, match=f"^cannot run workers as daemon: {reason}"):
        choose("daemon", rights)


@pytest.mark.parametrize(
    "rights", [Rights(0, missing=["CAP_SETGID"]), Rights(0, uids=[range(1)]), Rights(0, may_set_groups=False)]
)
def test_a_default_user_that_is_not_available_is_reported_as_degraded(rights: Rights) -> None:
    choice = choose(None, rights)
    assert choice.user is None
    assert choice.degraded.startswith("workers run as user id 0, without capabilities: ")


def test_the_last_id_of_a_namespace_is_included() -> None:
    assert choose("daemon", Rights(0, uids=[range(1, 2)], gids=[range(6, 8)])).user
    with pytest.raises(Unavailable):
        choose("daemon", Rights(0, gids=[range(6, 7)]))


def test_workers_of_another_user_keep_it() -> None:
    assert choose(None, Rights(1, missing=["CAP_SETUID", "CAP_SETGID"])) == worker_user.Choice(None)
    assert choose("daemon", Rights(1)) == worker_user.Choice(None), "it is that user already"
    with pytest.raises(Unavailable, match="this node runs as user id 1, and only a node that is started by root"):
        choose("nobody", Rights(1))


def test_id_maps_are_parsed_as_the_kernel_writes_them() -> None:
    text = "         0     100000          1\n      1000       5000         10\n"
    assert worker_user._ids(text) == [range(1), range(1000, 1010)]
    assert 65534 in worker_user._ids("")[0], "a kernel without user namespaces has all ids"
