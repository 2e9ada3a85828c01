"""A private service manager: the machine's systemd as process 1 of new namespaces, with only our units.

    with private_systemd(directory, {Path("/opt"): directory / "opt"}) as systemd:
        systemd.install("velocity.service", text)
        systemd.ctl("start", "velocity.service")

It must not change the machine: without isolation systemd empties /tmp, sets sysctls and moves processes between
control groups. So it sees no unit of the machine (SYSTEMD_UNIT_PATH, no generators), the file system is read-only
except for *directory* and fresh tmpfs mounts, /proc/sys is read-only, bpffs is a new one, and its control groups are
below one that is made for it and removed at the end. Folders that it needs at a certain path, like an installation in
/opt, are mounted there (*put*). Everything in it ends with its process 1, and that ends with the test.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.support.waiting import poll

SYSTEMD = Path("/lib/systemd/systemd")
UNITS = "run/systemd/system"
#: Fresh and writable inside; folders below them that must stay visible are bind-mounted again.
_FRESH = ("/tmp", "/var/tmp", "/run", "/var/lib", "/var/cache", "/var/log")
_CGROUPS = Path("/sys/fs/cgroup")
_numbers = itertools.count()


@dataclass(frozen=True)
class PrivateSystemd:
    """A running service manager. `pid` is its process 1 as seen from outside."""

    pid: int
    directory: Path

    @property
    def root(self) -> Path:
        """Its file system."""
        return Path(f"/proc/{self.pid}/root")

    def inside(self, *argv: str | Path, timeout_s: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in there."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", *argv],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{shlex.join(map(str, argv))}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def ctl(self, *argv: str, timeout_s: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run systemctl."""
        return self.inside("systemctl", "--no-pager", "--full", *argv, timeout_s=timeout_s, check=check)

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Return properties of a unit."""
        lines = self.ctl("show", unit, *(f"--property={name}" for name in names)).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def install(self, name: str, text: str) -> None:
        """Write a unit or a drop-in and have it read."""
        path = self.root / UNITS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self.ctl("daemon-reload")

    def processes(self, unit: str) -> dict[int, str]:
        """Return the processes in the unit's control group: pid as we see it -> command line."""
        group = self.show(unit, "ControlGroup")["ControlGroup"]
        if not group:
            return {}
        for base in (_CGROUPS / "unified", _CGROUPS / "systemd", _CGROUPS):
            listed = _own_group(base) / group.lstrip("/") / "cgroup.procs"
            if listed.exists():
                return {pid: _command(pid) for pid in map(int, listed.read_text().split())}
        return {}

    def our_pid(self, pid: int) -> int:
        """Return the outer pid of the process that has *pid* inside."""
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                line = next(each for each in path.read_text().splitlines() if each.startswith("NSpid:"))
            except (OSError, StopIteration):
                continue
            numbers = line.split()[1:]
            if numbers[-1] == str(pid) and len(numbers) > 1 and self._is_ours(int(numbers[0])):
                return int(numbers[0])
        raise ProcessLookupError(pid)

    def _is_ours(self, pid: int) -> bool:
        try:
            return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{self.pid}/ns/pid")
        except OSError:
            return False


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _group_name() -> str:
    return f"velocity-test-{os.getpid()}"


def _own_group(base: Path) -> Path:
    return base / _group_name()


def _hierarchies() -> list[Path]:
    """The mounts that systemd would use: one where version 2 is everything, two in a mixed system."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    found = [_CGROUPS / name for name in ("systemd", "unified")]
    return [path for path in found if (path / "cgroup.procs").exists()]


def _script(keep: list[Path], put: Mapping[Path, Path]) -> str:
    """The script that isolates the new namespaces and then becomes process 1."""
    lines = ["set -e", "mount --make-rprivate /", "mount -t tmpfs -o mode=755 tmpfs /mnt"]
    # Folders below a fresh mount are kept aside first.
    places = [*put.items(), *((path, path) for path in keep)]
    for index, (_, path) in enumerate(places):
        lines += [f"mkdir /mnt/{index}", f"mount --rbind {shlex.quote(str(path))} /mnt/{index}"]
    lines += [f"mount -t tmpfs -o mode=1777 tmpfs {path}" for path in _FRESH]
    for index, (place, _) in enumerate(places):
        quoted = shlex.quote(str(place))
        lines += [f"mkdir -p {quoted}", f"mount --move /mnt/{index} {quoted}"]
    lines += ["umount /mnt", "mount -t proc proc /proc", "mount --bind /proc/sys /proc/sys"]
    lines += ["mount -o remount,bind,ro /proc/sys", "mount -t bpf -o mode=700 bpf /sys/fs/bpf"]
    mixed = _hierarchies() != [_CGROUPS]
    lines += [f"umount -R {_CGROUPS} || true"]
    if mixed:
        lines += [f"mount -t tmpfs -o mode=755 tmpfs {_CGROUPS}", f"mkdir {_CGROUPS}/systemd {_CGROUPS}/unified"]
        lines += [f"mount -t cgroup -o none,name=systemd systemd {_CGROUPS}/systemd"]
        lines += [f"mount -t cgroup2 none {_CGROUPS}/unified"]
    else:
        lines += [f"mount -t cgroup2 none {_CGROUPS}"]
    lines += ["mount -o remount,bind,ro /", f"mkdir -p /{UNITS}"]
    lines += [f"printf '[Unit]\\nDefaultDependencies=no\\n' > /{UNITS}/default.target"]
    lines += [
        f"exec env -i container=velocity-test PATH={shlex.quote(os.environ['PATH'])} "
        f"SYSTEMD_UNIT_PATH=/{UNITS} SYSTEMD_GENERATOR_PATH=/nowhere SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nowhere "
        f"{SYSTEMD} --system --unit=default.target --log-target=console --show-status=no"
    ]
    return "\n".join(lines)


def require() -> None:
    """Skip where it is not possible."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a private systemd")
    if not SYSTEMD.exists():
        pytest.skip("no systemd on this machine: its unit is not tried")


@contextlib.contextmanager
def private_systemd(directory: Path, put: Mapping[Path, Path] = MappingProxyType({})) -> Iterator[PrivateSystemd]:
    """Start one; at the end everything is removed. *put*: path inside -> our folder that is mounted there."""
    require()
    groups = [_own_group(base) for base in _hierarchies()]
    inner = directory / "systemd.log"
    # The interpreter, where it is below one of the mounts. The directory must stay writable when / is not.
    python = Path(sys.base_prefix)
    hidden = any(python.is_relative_to(place) for place in (*_FRESH, *put))
    keep = [directory, python] if hidden else [directory]
    for group in groups:
        group.mkdir()
    enter = "; ".join(f"echo $$ > {group}/cgroup.procs" for group in groups)
    flags = "--mount --pid --cgroup --ipc --uts --fork --kill-child=SIGKILL"
    with inner.open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"{enter}; exec unshare {flags} bash -c {shlex.quote(_script(keep, put))}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        pid = int(
            poll(lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split(), "a child")[0]
        )
        made = PrivateSystemd(pid, directory)
        try:
            poll(lambda: made.ctl("is-system-running", check=False).stdout.strip() == "running", "systemd", 15)
        except AssertionError:
            pytest.skip(f"a private systemd does not work here: {inner.read_text()[-500:]}")
        yield made
    finally:
        process.kill()
        process.wait()
        for group in groups:
            _remove(group)


def _remove(group: Path) -> None:
    """Remove a control group and those below it; their processes were killed, which takes a moment."""

    def gone() -> bool:
        for path in sorted(group.rglob("*"), reverse=True):
            if path.is_dir():
                with contextlib.suppress(OSError):
                    path.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()
        return not group.exists()

    poll(gone, f"the end of {group}", 10)
