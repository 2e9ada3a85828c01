"""What of a node is kept in bpffs, so that the death of its supervisor changes nothing and a successor finds it.

    <bpffs>/velocity-edge/<instance>/v<schema>/settings workers accept ... sockets-443-0_0_0_0 link-eth0

A directory of another schema is never used, only removed. Removing a pinned link detaches its program: so `remove` is a
clean uninstall, whoever left the pins. Names contain no dot: bpffs keeps those for itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from bpf import BpfError, abi, kernel
from bpf.kernel import MapSpec

BPFFS: Final = Path("/sys/fs/bpf")

LINK_PREFIX: Final = "link-"
SOCKETS_PREFIX: Final = "sockets-"


def mount(bpffs: Path = BPFFS) -> bool:
    """Make sure that *bpffs* is one and that we may write there; return whether it had to be mounted.

    Raises `BpfError` with the reason when it cannot be used.
    """
    mounted = False
    if not _is_bpffs(bpffs):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"bpf", os.fsencode(bpffs), b"bpf", 0, None):
            reason = os.strerror(ctypes.get_errno())
            raise BpfError(f"cannot mount bpffs on {bpffs}: {reason}; `mount -t bpf bpf {bpffs}` as root helps")
        mounted = True
    if os.statvfs(bpffs).f_flag & os.ST_RDONLY:
        raise BpfError(f"cannot write to {bpffs}: it is mounted read-only; `mount -o remount,rw {bpffs}` as root helps")
    if not os.access(bpffs, os.W_OK | os.X_OK):
        raise BpfError(f"cannot write to {bpffs}: it belongs to somebody else")
    return mounted


def _is_bpffs(path: Path) -> bool:
    # Fields: id, parent, device, root, mount point, options, optional ones, "-", type, ...
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    types = [fields[fields.index("-") + 1] for fields in mounts if fields[4] == str(path)]
    return bool(types) and types[-1] == "bpf"  # the last one covers the others


def folder(bpffs: Path = BPFFS) -> Path:
    """Return where the instances of this user are. bpffs is open to everybody, like /tmp."""
    uid = os.geteuid()
    return bpffs / ("velocity-edge" if uid == 0 else f"velocity-edge-{uid}")


class MismatchError(BpfError):
    """What is pinned is not what this version would make."""


class Pins:
    """The directory of one instance."""

    def __init__(self, instance: str, bpffs: Path = BPFFS) -> None:
        self.instance = folder(bpffs) / instance
        self.directory = self.instance / f"v{abi.SCHEMA}"

    def create(self) -> None:
        """Make the directory. Raises `BpfError` when that cannot be, or when somebody else made it: maps in it that we
        adopted would be his.
        """
        for directory in (self.instance.parent, self.instance, self.directory):
            try:
                directory.mkdir(exist_ok=True, mode=0o700)
            except OSError as error:
                raise BpfError(f"cannot create {directory}: {error.strerror}") from None
            status = directory.lstat()
            if status.st_uid != os.geteuid() or status.st_mode & 0o022 or not stat.S_ISDIR(status.st_mode):
                raise BpfError(f"cannot use {directory}: somebody else made it; `rm -r {directory}` as root helps")

    def remove(self) -> None:
        """Detach all that is attached by pins of this instance, of every schema, and remove them."""
        if self.instance.is_dir():
            # Unpinning detaches only when nobody else holds the link: a supervisor that lives does.
            for path in self.instance.glob(f"*/{LINK_PREFIX}*"):
                link = kernel.open_pin(path)
                try:
                    kernel.detach_link(link)
                except OSError as error:
                    if error.errno != errno.ENOLINK:  # that interface is gone
                        raise
                finally:
                    os.close(link)
            shutil.rmtree(self.instance)
        try:
            self.instance.parent.rmdir()
        except OSError:
            pass  # other instances live there

    def start_anew(self) -> None:
        """Remove all that is pinned here or in another schema, except the sockets maps, which come along.

        These are the same in every schema, and the kernel lets a socket sit in one map at a time only.
        """
        self.create()
        for directory in self.instance.iterdir():
            for path in directory.iterdir():
                if not path.name.startswith(SOCKETS_PREFIX):
                    path.unlink()
                elif directory != self.directory and not (self.directory / path.name).exists():
                    path.rename(self.directory / path.name)
            if directory != self.directory:
                shutil.rmtree(directory)

    def has_other_schemas(self) -> bool:
        """Say whether an older or newer version left something."""
        return self.instance.is_dir() and any(path != self.directory for path in self.instance.iterdir())

    def open(self, name: str) -> int | None:
        """Return a descriptor of a pin, or None when there is none."""
        path = self.directory / name
        return kernel.open_pin(path) if path.exists() else None

    def pin(self, fd: int, name: str) -> None:
        """Pin under a name; what was there before is unpinned."""
        self.unpin(name)
        kernel.pin(fd, self.directory / name)

    def unpin(self, name: str) -> None:
        """Remove a pin that may be there."""
        (self.directory / name).unlink(missing_ok=True)

    def names(self, prefix: str = "") -> list[str]:
        """Return the names that begin so."""
        if not self.directory.is_dir():
            return []
        return sorted(path.name for path in self.directory.iterdir() if path.name.startswith(prefix))


def instances(bpffs: Path = BPFFS) -> list[str]:
    """Return the names of the instances that have pins."""
    there = folder(bpffs)
    return sorted(path.name for path in there.iterdir()) if there.is_dir() else []


def sockets_name(host: str, port: int) -> str:
    """Return the name of the sockets map of a listener."""
    return f"{SOCKETS_PREFIX}{port}-{host.replace('.', '_')}"


def specs() -> Iterator[MapSpec]:
    """Yield the maps that are pinned once. Of the others, `sockets` is each listener's and `cpus` each shield's own."""
    for spec in abi.MAPS:
        if spec.name not in ("cpus", "sockets"):
            yield spec


def sockets_spec() -> MapSpec:
    """Return the map that each listener has for itself."""
    return next(spec for spec in abi.MAPS if spec.name == "sockets")


def cpus_spec() -> MapSpec:
    """Return the map that a shield has for itself, as this machine needs it."""
    spec = next(spec for spec in abi.MAPS if spec.name == "cpus")
    return replace(spec, entries=kernel.possible_cpus())


def open_or_create(pins: Pins | None, name: str, spec: MapSpec) -> tuple[int, bool]:
    """Return a map and whether it was there.

    A pinned map that is not exactly what we would make raises `MismatchError`.
    """
    fd = pins.open(name) if pins else None
    if fd is not None:
        found = kernel.map_spec(fd)
        if found != replace(spec, name=found.name):
            os.close(fd)
            raise MismatchError(f"cannot adopt the pinned map {name}: it is {found}, and {spec} is needed")
        return fd, True
    try:
        fd = kernel.create_map(spec)
    except PermissionError:
        raise BpfError(f"cannot create the map {spec.name}: {kernel.why_not('CAP_BPF')}") from None
    except OSError as error:
        raise BpfError(f"cannot create the map {spec.name}: {error.strerror}") from None
    if pins:
        try:
            pins.pin(fd, name)
        except OSError as error:
            os.close(fd)
            raise BpfError(f"cannot pin {pins.directory / name}: {error.strerror}") from None
    return fd, False
