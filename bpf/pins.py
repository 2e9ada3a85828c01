"""The maps and links of a node that are pinned in bpffs: they outlive the supervisor, and a successor finds them.

    <bpffs>/velocity-edge/<instance>/v<schema>/settings workers accept ... sockets-443-0_0_0_0 link-eth0

A directory of another schema is never used, only removed. Removing a pinned link detaches its program, so `remove` is a
complete uninstall, whichever process made the pins. Names contain no dot: bpffs reserves it.
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

from bpf import BpfError, abi, kernel, links
from bpf.kernel import MapSpec

BPFFS: Final = Path("/sys/fs/bpf")

LINK_PREFIX: Final = "link-"
SOCKETS_PREFIX: Final = "sockets-"


def mount(bpffs: Path = BPFFS) -> bool:
    """Make sure that *bpffs* is a bpffs and can be written to; return whether it had to be mounted.

    Raises `BpfError` with the reason when it cannot be used.
    """
    mounted = False
    if not _is_bpffs(bpffs):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"bpf", os.fsencode(bpffs), b"bpf", 0, None):
            reason = os.strerror(ctypes.get_errno())
            raise BpfError(f"cannot mount bpffs on {bpffs}: {reason}; run `mount -t bpf bpf {bpffs}` as root")
        mounted = True
    if os.statvfs(bpffs).f_flag & os.ST_RDONLY:
        raise BpfError(f"cannot write to {bpffs}: it is mounted read-only; run `mount -o remount,rw {bpffs}` as root")
    if not os.access(bpffs, os.W_OK | os.X_OK):
        raise BpfError(f"cannot write to {bpffs}: another user owns it")
    return mounted


def _is_bpffs(path: Path) -> bool:
    # Fields: id, parent, device, root, mount point, options, optional ones, "-", type, ...
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    types = [fields[fields.index("-") + 1] for fields in mounts if fields[4] == str(path)]
    return bool(types) and types[-1] == "bpf"  # the last one covers the others


def folder(bpffs: Path = BPFFS) -> Path:
    """Return the directory of this user's instances. Every user may write to bpffs, as to /tmp."""
    uid = os.geteuid()
    return bpffs / ("velocity-edge" if uid == 0 else f"velocity-edge-{uid}")


class MismatchError(BpfError):
    """The pinned maps are not those that this version would create."""


class Pins:
    """The directory of one instance."""

    def __init__(self, instance: str, bpffs: Path = BPFFS) -> None:
        self.instance = folder(bpffs) / instance
        self.directory = self.instance / f"v{abi.SCHEMA}"

    def create(self) -> None:
        """Make the directory. Raises `BpfError` when that fails, or when another user made it and so owns its maps."""
        for directory in (self.instance.parent, self.instance, self.directory):
            try:
                directory.mkdir(exist_ok=True, mode=0o700)
            except OSError as error:
                raise BpfError(f"cannot create {directory}: {error.strerror}") from None
            status = directory.lstat()
            if status.st_uid != os.geteuid() or status.st_mode & 0o022 or not stat.S_ISDIR(status.st_mode):
                raise BpfError(f"cannot use {directory}: another user made it; run `rm -r {directory}` as root")

    def remove(self) -> None:
        """Detach everything that pins of this instance attach, in every schema, and remove the pins."""
        if self.instance.is_dir():
            # Unpinning detaches only when no process holds the link, as a running supervisor does.
            for path in self.instance.glob(f"*/{LINK_PREFIX}*"):
                link = links.open_pin(path)
                try:
                    links.detach_link(link)
                except OSError as error:
                    if error.errno != errno.ENOLINK:  # ENOLINK: the interface is gone
                        raise
                finally:
                    os.close(link)
            shutil.rmtree(self.instance)
        try:
            self.instance.parent.rmdir()
        except OSError:
            pass  # there are other instances

    def start_anew(self) -> None:
        """Remove everything that is pinned in any schema, except the sockets maps, which move to this schema.

        These are the same in every schema, and the kernel allows a socket to be in one map only.
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
        """Return whether an older or newer version left pins."""
        return self.instance.is_dir() and any(path != self.directory for path in self.instance.iterdir())

    def open(self, name: str) -> int | None:
        """Return a descriptor of a pinned object, or None when the name is not pinned."""
        path = self.directory / name
        return links.open_pin(path) if path.exists() else None

    def pin(self, fd: int, name: str) -> None:
        """Pin under a name, in place of an earlier pin."""
        self.unpin(name)
        links.pin(fd, self.directory / name)

    def unpin(self, name: str) -> None:
        """Remove a pin if it exists."""
        (self.directory / name).unlink(missing_ok=True)

    def names(self, prefix: str = "") -> list[str]:
        """Return the names with this prefix."""
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
    """Yield the maps that are pinned once. Each listener has a `sockets` map, each shield a `cpus` map of its own."""
    for spec in abi.MAPS:
        if spec.name not in ("cpus", "sockets"):
            yield spec


def sockets_spec() -> MapSpec:
    """Return how the map of each listener is created."""
    return next(spec for spec in abi.MAPS if spec.name == "sockets")


def cpus_spec() -> MapSpec:
    """Return how the map of a shield is created on this machine."""
    spec = next(spec for spec in abi.MAPS if spec.name == "cpus")
    return replace(spec, entries=kernel.possible_cpus())


def open_or_create(pins: Pins | None, name: str, spec: MapSpec) -> tuple[int, bool]:
    """Return a map, and whether it was pinned already.

    A pinned map that differs from *spec* raises `MismatchError`.
    """
    fd = pins.open(name) if pins else None
    if fd is not None:
        found = kernel.map_spec(fd)
        if found != replace(spec, name=found.name):
            os.close(fd)
            raise MismatchError(f"cannot adopt the pinned map {name}: found {found}, expected {spec}")
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
