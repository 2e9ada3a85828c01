"""A launcher: remove rights as container runtimes do, then execute a program. Standard library only.

    confine.py '{"drop": ["CAP_KILL"], "refuse": {"bpf": "EPERM"}}' velocity-edge serve ...

The keys, in the order in which they are carried out:

    groups   {"cpu": PATH}        enter these control groups (version 1 or 2): PATH/cgroup.procs
    prepare  "mount ..."          a mount namespace, in which this shell script runs first, with all rights
    users    [[0, 100000, 65536]] a user namespace: inner id, outer id, count; of users and of groups
    setgroups "deny"              what an unprivileged process must write that creates a user namespace
    pid      true                 a pid namespace: the program is process 1 (/proc is mounted again)
    script   "mount ..."          a mount namespace, and this shell script with the rights that are left
    cpus     [0]                  sched_setaffinity
    limits   {"NOFILE": [64, 64]} setrlimit
    keep     [names] or null      the bounding set is these capabilities (null: as it is)
    drop     [names]              these go from it, too
    uid      1000                 another user, with these capabilities, ambient:
    ambient  [names]
    refuse   {"bpf": "ENOSYS"}    system calls that a seccomp filter answers with this error
    environment {"HOME": null}    variables; null removes one
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

#: linux/capability.h, in order.
_NAMES = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = _NAMES.split()
_DOCKER = """
CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL
AUDIT_WRITE
"""
#: What Docker, containerd and (nearly) Podman give by default.
DOCKER = _DOCKER.split()
#: System calls by machine: x86_64, aarch64.
SYSCALLS = {
    "bpf": (321, 280),
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "memfd_create": (319, 279),
    "openat2": (437, 437),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "sched_setaffinity": (203, 122),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_NEWNS, _NEWUSER, _NEWPID = 0x00020000, 0x10000000, 0x20000000
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _user_namespace(users: list[list[int]], setgroups: str) -> None:
    """Enter one; a process outside of it writes its maps."""
    ready, done = os.pipe(), os.pipe()
    parent = os.getpid()
    writer = os.fork()
    if writer == 0:
        os.close(done[0])
        os.read(ready[0], 1)
        Path(f"/proc/{parent}/setgroups").write_text(setgroups)
        text = "".join(f"{inner} {outer} {count}\n" for inner, outer, count in users)
        for kind in ("uid", "gid"):
            Path(f"/proc/{parent}/{kind}_map").write_text(text)
        os._exit(0)
    _check(_libc.unshare(_NEWUSER), "unshare user")
    os.write(ready[1], b"x")
    _, status = os.waitpid(writer, 0)
    if status:
        raise SystemExit("cannot write the maps of the user namespace")
    if setgroups == "allow":
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    for fd in (*ready, *done):
        os.close(fd)


def _mount_namespace(script: str) -> None:
    _check(_libc.unshare(_NEWNS), "unshare mount")
    subprocess.run(["/bin/sh", "-ec", f"mount --make-rprivate /\n{script}"], check=True)


def _pid_namespace() -> None:
    """Continue as process 1 of one, in a child; forward signals and the exit code."""
    _check(_libc.unshare(_NEWPID), "unshare pid")
    child = os.fork()
    if child == 0:
        _check(_libc.prctl(1, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: os.kill(child, received))
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _bound(keep: set[str]) -> None:
    for number, name in enumerate(CAPABILITIES):
        if name not in keep:
            _check(_libc.prctl(24, number, 0, 0, 0), f"PR_CAPBSET_DROP {name}")


def _become(uid: int, ambient: set[str]) -> None:
    _check(_libc.prctl(8, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    bits = sum(1 << number for number, name in enumerate(CAPABILITIES) if name in ambient)
    header = struct.pack("=Ii", 0x20080522, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    _check(_libc.capset(header, struct.pack("=6I", low, low, low, high, high, high)), "capset")
    for number, name in enumerate(CAPABILITIES):
        if name in ambient:
            _check(_libc.prctl(47, 2, number, 0, 0), "PR_CAP_AMBIENT_RAISE")


def _refuse(calls: dict[str, str]) -> None:
    """seccomp(2): answer these with an error, let everything else pass. It is inherited and cannot be removed."""
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    code = struct.pack("=HBBI", 0x20, 0, 0, 0)  # A = number of the call
    for name, error in calls.items():
        code += struct.pack("=HBBI", 0x15, 0, 1, SYSCALLS[name][column])
        code += struct.pack("=HBBI", 0x06, 0, 0, 0x00050000 | getattr(errno, error))
    code += struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(buffer))
    _check(_libc.prctl(22, 2, ctypes.create_string_buffer(program, len(program)), 0, 0), "PR_SET_SECCOMP")


def confine(wanted: dict[str, Any]) -> None:
    """Execute it. Raises OSError where this machine does not allow it."""
    for path in wanted.get("groups", {}).values():
        (Path(path) / "cgroup.procs").write_text(f"{os.getpid()}\n")
    if script := wanted.get("prepare"):
        _mount_namespace(script)
    if users := wanted.get("users"):
        _user_namespace(users, wanted.get("setgroups", "allow"))
    script = wanted.get("script", "")
    if wanted.get("pid"):
        script = f"mount -t proc proc /proc\n{script}"
        _pid_namespace()
    if script:
        _mount_namespace(script)
    if cpus := wanted.get("cpus"):
        os.sched_setaffinity(0, cpus)
    for name, limits in wanted.get("limits", {}).items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), tuple(limits))
    keep = set(CAPABILITIES if wanted.get("keep") is None else wanted["keep"]) - set(wanted.get("drop", []))
    uid = wanted.get("uid")
    if uid is None:
        _bound(keep)
    # First: without CAP_SYS_ADMIN a filter needs no_new_privs, which is a different test.
    if calls := wanted.get("refuse"):
        _refuse(calls)
    if uid is not None:
        _become(uid, set(wanted.get("ambient", [])))


def main() -> None:
    wanted = json.loads(sys.argv[1])
    confine(wanted)
    for name, value in wanted.get("environment", {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
