"""The directories of a node: runtime (sockets), state (keys, certificates), cache (compiled programs).

Each is chosen by an environment variable, else by the user that runs the node. Several nodes run side by side on one
machine when each has its own VELOCITY_RUNTIME_DIR (and VELOCITY_STATE_DIR, unless they share keys). `instance_name`
names a node in what is global on a machine: the pinned BPF programs.

Only `private_directory` creates a directory; it refuses one that another user could have prepared.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from velocity_edge.errors import Unavailable, VelocityError

_SYSTEM_RUNTIME: Final = Path("/run/velocity")
_ANOTHER: Final = "VELOCITY_RUNTIME_DIR and VELOCITY_STATE_DIR choose others"


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of a node, and its files in the runtime directory that have readers outside the supervisor."""

    runtime: Path
    state: Path
    cache: Path

    @property
    def disable_file(self) -> Path:
        """The file that ExaBGP's healthcheck and anycast-healthchecker watch: while it exists, routes are withdrawn."""
        return self.runtime / "disabled"

    @property
    def disabled(self) -> bool:
        """Whether the disable file exists; False when that cannot be read."""
        try:
            self.disable_file.stat()
        except OSError:
            return False
        return True

    @property
    def workers_socket(self) -> Path:
        """The socket where workers look for the next supervisor."""
        return self.runtime / "workers.sock"


def runtime_dir(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Return the directory of the sockets (admin.sock, workers.sock), and of what a successor needs."""
    uid = os.getuid() if uid is None else uid
    if chosen := environment.get("VELOCITY_RUNTIME_DIR"):
        return Path(chosen).absolute()
    if uid == 0:
        return _SYSTEM_RUNTIME
    if base := environment.get("XDG_RUNTIME_DIR"):
        return Path(base) / "velocity"
    return Path(f"/tmp/velocity-{uid}")  # checked by private_directory


def state_dir(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Return the directory of files that must survive a reboot: epoch table, self-signed certificate, node id."""
    uid = os.getuid() if uid is None else uid
    if chosen := environment.get("VELOCITY_STATE_DIR"):
        return Path(chosen).absolute()
    if uid == 0:
        return Path("/var/lib/velocity")
    if base := environment.get("XDG_STATE_HOME"):
        return Path(base) / "velocity"
    if home := _home(environment, uid):
        return home / ".local/state/velocity"
    raise Unavailable(
        f"cannot choose a directory for keys and certificates: user {uid} has no home; set VELOCITY_STATE_DIR"
    )


def cache_dir(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Return the directory of files that can be made again: compiled packet programs, by the hash of their source."""
    uid = os.getuid() if uid is None else uid
    if chosen := environment.get("VELOCITY_CACHE_DIR"):
        return Path(chosen).absolute()
    if uid == 0:
        return Path("/var/cache/velocity")
    if base := environment.get("XDG_CACHE_HOME"):
        return Path(base) / "velocity"
    home = _home(environment, uid)
    return home / ".cache/velocity" if home else runtime_dir(environment, uid) / "cache"


def _home(environment: Mapping[str, str], uid: int) -> Path | None:
    """Return the home of a user; a user id without an entry, as in a container, has none."""
    if home := environment.get("HOME"):
        return Path(home)
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        return None


def admin_socket(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the path of the admin API's socket."""
    return runtime_dir(environment) / "admin.sock"


def instance_name(directory: Path) -> str:
    """Return the node's name on this machine, from its runtime directory: "main", or a short hash for any other."""
    if directory == _SYSTEM_RUNTIME:
        return "main"
    return hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]


def private_directory(path: Path, *, mode: int = 0o700) -> Path:
    """Make *path* (mode 0700) where it does not exist, and return it. Raises `VelocityError` when it is not private.

    In /tmp another user could have made it first, and would then control the sockets and keys in it.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise Unavailable(f"cannot make the directory {path}: {error.strerror}; {_ANOTHER}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise VelocityError(f"cannot use {path}: must be a directory, not a link or a file")
    if found.st_uid not in (os.geteuid(), 0):
        raise VelocityError(
            f"cannot use {path}: it belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}"
        )
    if found.st_mode & 0o022:
        raise VelocityError(f"cannot use {path}: other users may write into it; run `chmod go-w {path}`")
    if why := unwritable(path):
        raise Unavailable(f"cannot write into {path}: {why}; {_ANOTHER}")
    return path


def unwritable(directory: Path) -> str:
    """Return why *directory*, or its nearest existing parent, cannot be written to; empty when it can."""
    # Not Path.exists, which raises where a parent may not be searched.
    there = next((each for each in (directory, *directory.parents) if os.access(each, os.F_OK)), Path("/"))
    if os.access(there, os.W_OK | os.X_OK):
        return ""
    read_only = os.statvfs(there).f_flag & os.ST_RDONLY
    return "its file system is read-only" if read_only else f"user {os.geteuid()} may not write into {there}"
