"""The user that workers run as: an unprivileged user, or, where none is available, user id 0 without capabilities.

The decision is a function of what this process may do (`Rights`). The supervisor calls it at the start and reports what
is missing; a worker calls it again before it drops its privileges (workers/process/privileges.py); `doctor` shows it. A
configured user that is not available is an error. The default one is optional: a container often has no CAP_SETUID, a
user namespace often has only one id (user_namespaces(7)).
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

#: The user of workers when none is configured: the first of these that exists.
DEFAULT_USERS: Final = ("velocity", "nobody")
#: The id of `nobody` without an entry, as in a container image without /etc/passwd (the kernel's overflow id).
_NOBODY: Final = 65534
#: The capabilities that are needed to become another user.
_NEEDED: Final = ("CAP_SETUID", "CAP_SETGID")


@dataclass(frozen=True, slots=True)
class User:
    """A user to become."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Rights:
    """The input of the decision. `uids` and `gids`: the ids of this user namespace; `missing`: capabilities."""

    uid: int
    missing: Sequence[str] = ()
    uids: Sequence[range] = (range(1 << 32),)
    gids: Sequence[range] = (range(1 << 32),)
    may_set_groups: bool = True

    @classmethod
    def of_this_process(cls) -> Rights:
        """Read them from the kernel."""
        return cls(
            os.geteuid(),
            capabilities.missing(_NEEDED),
            _ids(_read("/proc/self/uid_map")),
            _ids(_read("/proc/self/gid_map")),
            _read("/proc/self/setgroups").strip() != "deny",
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The user that a worker becomes (None: that of its supervisor). `degraded`: a limitation as a sentence, or ""."""

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
            raise Unavailable(f"cannot run workers as {candidate}: its user id is 0; choose an unprivileged user")
        return User(candidate, found.pw_uid, found.pw_gid)
    if name:
        raise Unavailable(f"cannot run workers as {name}: no such user")
    return User(DEFAULT_USERS[-1], _NOBODY, _NOBODY)


def choose(name: str | None, rights: Rights) -> Choice:
    """Return the user of workers. *name*: the configured one. Raises `Unavailable` when that one is not available."""
    if rights.uid != 0:
        if name and find_user(name).uid != rights.uid:
            raise Unavailable(
                f"cannot run workers as {name}: this node runs as user id {rights.uid}, and only a node that is "
                "started by root can run workers as another user"
            )
        return Choice(None)
    user = find_user(name)
    if not (reason := _why_not(user, rights)):
        return Choice(user)
    if name:
        raise Unavailable(f"cannot run workers as {name}: {reason}")
    return Choice(None, f"workers run as user id 0, without capabilities: {reason}; or start the node as another user")


def _why_not(user: User, rights: Rights) -> str:
    """Return why *user* is not available, with the remedy; empty when it is."""
    if rights.missing:
        needed = " and ".join(rights.missing)
        return f"to run them as {user.name} give the node {needed} (`--cap-add`, CapabilityBoundingSet=)"
    for kind, number, there in (("user", user.uid, rights.uids), ("group", user.gid, rights.gids)):
        if not any(number in each for each in there):
            return f"this user namespace has no {kind} id {number} for {user.name}; give it more ids (/etc/subuid)"
    return "" if rights.may_set_groups else "this user namespace forbids setgroups(2)"


def _ids(text: str) -> list[range]:
    """Return the ids inside the namespace from a uid_map or gid_map; all ids when it cannot be read."""
    lines = [[int(word) for word in line.split()] for line in text.splitlines()]
    return [range(first, first + count) for first, _, count in lines] or [range(1 << 32)]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
