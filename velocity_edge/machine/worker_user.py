"""Whom workers can be: a user without rights, or, where there is no other one, user id 0 without capabilities.

The decision is a function of what this process may do (`Rights`): the supervisor asks it at start and says what is
missing, a worker asks it again before it gives up its rights (workers/process/privileges.py), and `doctor` shows it. A
user that was asked for by name and cannot be had is an error. The default one is tried, and done without: a container
often has no CAP_SETUID, a user namespace often has one id only (user_namespaces(7)).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from velocity_edge.errors import Unavailable
from velocity_edge.machine import capabilities

#: Who workers are when nothing is configured, the first that exists.
DEFAULT_USERS: Final = ("velocity", "nobody")
#: Who `nobody` is where no file says so, as in a container image without /etc/passwd (the kernel's overflow id).
_NOBODY: Final = 65534
#: What it takes to become another user.
_NEEDED: Final = ("CAP_SETUID", "CAP_SETGID")


@dataclass(frozen=True, slots=True)
class User:
    """Whom to become."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Rights:
    """What decides. `uids` and `gids` are those that this user namespace has, `missing` capabilities."""

    uid: int
    missing: Sequence[str] = ()
    uids: Sequence[range] = (range(1 << 32),)
    gids: Sequence[range] = (range(1 << 32),)
    may_set_groups: bool = True

    @classmethod
    def of_this_process(cls) -> Rights:
        """Ask the kernel."""
        return cls(
            os.geteuid(),
            capabilities.missing(_NEEDED),
            _ids(_read("/proc/self/uid_map")),
            _ids(_read("/proc/self/gid_map")),
            _read("/proc/self/setgroups").strip() != "deny",
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Whom a worker becomes (None: it stays who its supervisor is), and what is less than it should be: a sentence."""

    user: User | None
    degraded: str = ""


def find_user(name: str | None) -> User:
    """Return the user called *name*, or the default one. Raises `Unavailable`."""
    for candidate in (name,) if name else DEFAULT_USERS:
        try:
            found = pwd.getpwnam(candidate)
        except KeyError:
            continue
        if found.pw_uid == 0:
            raise Unavailable(f"cannot run workers as {candidate}: its user id is 0, the point is to be somebody else")
        return User(candidate, found.pw_uid, found.pw_gid)
    if name:
        raise Unavailable(f"cannot run workers as {name}: no such user")
    return User(DEFAULT_USERS[-1], _NOBODY, _NOBODY)


def choose(name: str | None, rights: Rights) -> Choice:
    """Return whom workers become. *name*: who was asked for. Raises `Unavailable` when that one cannot be had."""
    if rights.uid != 0:
        if name and find_user(name).uid != rights.uid:
            raise Unavailable(
                f"cannot run workers as {name}: this node runs as user id {rights.uid}, and only one that is started "
                "by root can have workers that are somebody else"
            )
        return Choice(None)
    user = find_user(name)
    if not (reason := _why_not(user, rights)):
        return Choice(user)
    if name:
        raise Unavailable(f"cannot run workers as {name}: {reason}")
    return Choice(
        None, f"workers run as user id 0, without capabilities: {reason}; a start as another user would do, too"
    )


def _why_not(user: User, rights: Rights) -> str:
    """Return why *user* cannot be had, and what would give it; empty when it can."""
    if rights.missing:
        return f"{' and '.join(rights.missing)} would make them {user.name} (`--cap-add`, CapabilityBoundingSet=)"
    for kind, number, there in (("user", user.uid, rights.uids), ("group", user.gid, rights.gids)):
        if not any(number in each for each in there):
            return (
                f"this user namespace has no {kind} id {number} for {user.name}; one with more ids would (/etc/subuid)"
            )
    return "" if rights.may_set_groups else "this user namespace forbids setgroups(2)"


def _ids(text: str) -> list[range]:
    """Return the ids inside that a uid_map or gid_map has; all of them where it cannot be read."""
    lines = [[int(word) for word in line.split()] for line in text.splitlines()]
    return [range(first, first + count) for first, _, count in lines] or [range(1 << 32)]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
