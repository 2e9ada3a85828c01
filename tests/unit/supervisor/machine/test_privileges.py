"""The supervisor drops the capabilities that it does not need; an upgrade regains them, with and without root."""

import ctypes
import os
from collections.abc import Callable

import pytest

from supervisor.machine import privileges
from velocity_edge.machine import capabilities

CAP_NET_ADMIN, CAP_KILL, CAP_BPF = 1 << 12, 1 << 5, 1 << 39
NOBODY = 65534


def in_child(work: Callable[[], None]) -> dict[str, int]:
    """Run *work* in a child that then becomes `cat /proc/self/status`; return its capability sets."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writable, 1)
            work()
            os.execv("/bin/cat", ["cat", "/proc/self/status"])
        finally:
            os._exit(9)
    os.close(writable)
    with open(readable) as pipe:
        lines = dict(line.split(":\t") for line in pipe if line.startswith("Cap"))
    assert os.waitpid(pid, 0)[1] == 0
    return {name: int(value, 16) for name, value in lines.items()}


def become_nobody_with_capabilities() -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setresuid(NOBODY, NOBODY, NOBODY)


@pytest.mark.root
def test_without_root_the_capabilities_for_an_upgrade_stay_permitted() -> None:
    def work() -> None:
        become_nobody_with_capabilities()
        privileges.drop_capabilities()
        assert capabilities.get()[0] & (CAP_NET_ADMIN | CAP_BPF) == 0
        privileges.prepare_exec()

    assert in_child(work)["CapEff"] & (CAP_NET_ADMIN | CAP_BPF) == CAP_NET_ADMIN | CAP_BPF


@pytest.mark.root
def test_a_program_other_than_an_upgrade_gets_no_capabilities() -> None:
    def work() -> None:
        become_nobody_with_capabilities()
        privileges.drop_capabilities()

    assert in_child(work)["CapEff"] == 0


@pytest.mark.root
def test_with_no_new_privs_the_capabilities_for_an_upgrade_stay_permitted() -> None:
    def work() -> None:
        ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, as NoNewPrivileges= of systemd
        privileges.drop_capabilities()
        assert capabilities.get()[0] & (CAP_NET_ADMIN | CAP_BPF) == 0
        privileges.prepare_exec()

    assert in_child(work)["CapEff"] & (CAP_NET_ADMIN | CAP_BPF) == CAP_NET_ADMIN | CAP_BPF


@pytest.mark.root
def test_root_has_few_effective_capabilities() -> None:
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        privileges.drop_capabilities()
        os.write(writable, str(capabilities.get()[:2]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    effective, permitted = eval(os.read(readable, 200))
    os.close(readable)
    os.close(writable)
    assert effective == permitted
    assert effective & CAP_KILL
    assert not effective & (CAP_NET_ADMIN | CAP_BPF)
