"""Where a node keeps its files: runtime directory (sockets), state directory (keys, certificates), cache (programs).

Each is chosen by a variable, else by who runs the node, so that several nodes can run side by side on one machine by
giving each its own VELOCITY_RUNTIME_DIR (and VELOCITY_STATE_DIR, when they shall not share keys). `instance_name` gives
each a name for what is global on a machine: the pinned BPF programs.

Nothing is made here until `private_directory` is called, which refuses a folder that someone else could have laid out.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from velocity_edge.errors import Unavailable, VelocityError

_SYSTEM_RUNTIME: Final = Path("/run/velocity")
_ANOTHER: Final = "VELOCITY_RUNTIME_DIR and VELOCITY_STATE_DIR name others"


def runtime_dir(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Return the folder of the sockets: admin.sock, workers.sock, and what a successor needs."""
    uid = os.getuid() if uid is None else uid
    if chosen := environment.get("VELOCITY_RUNTIME_DIR"):
        return Path(chosen).absolute()
    if uid == 0:
        return _SYSTEM_RUNTIME
    if base := environment.get("XDG_RUNTIME_DIR"):
        return Path(base) / "velocity"
    return Path(f"/tmp/velocity-{uid}")  # checked by private_directory


def state_dir(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Return the folder of what must survive a reboot: the epoch table, the self-signed certificate, the node id."""
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
        f"cannot choose a folder for keys and certificates: user {uid} has no home; VELOCITY_STATE_DIR would name one"
    )


def cache_dir(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Return the folder of what can be made again: compiled packet programs, by the hash of their source."""
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
    """Return the home of a user; one who is only a number, as in a container, has none."""
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
    """Make *path* (mode 0700, ours) where it does not exist, and return it; raise `VelocityError` when it is not ours.

    In /tmp anybody could have made it first, and would then hold our sockets and keys.
    """
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise Unavailable(f"cannot make the directory {path}: {error.strerror}; {_ANOTHER}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise VelocityError(f"cannot use {path}: must be a directory, not a link or a file")
    if found.st_uid not in (os.geteuid(), 0):
        raise VelocityError(f"cannot use {path}: it belongs to user {found.st_uid}, not to us ({os.geteuid()})")
    if found.st_mode & 0o022:
        raise VelocityError(f"cannot use {path}: others may write into it; `chmod go-w {path}` would make it right")
    if why := unwritable(path):
        raise Unavailable(f"cannot write into {path}: {why}; {_ANOTHER}")
    return path


def unwritable(directory: Path) -> str:
    """Return why nothing can be made in a folder, or below the first one above it that exists; empty when it can."""
    # Not Path.exists: that raises where a folder above may not be passed.
    there = next((each for each in (directory, *directory.parents) if os.access(each, os.F_OK)), Path("/"))
    if os.access(there, os.W_OK | os.X_OK):
        return ""
    read_only = os.statvfs(there).f_flag & os.ST_RDONLY
    return "its file system is read-only" if read_only else f"user {os.geteuid()} may not write into {there}"
