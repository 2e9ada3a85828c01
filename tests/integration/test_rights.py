"""A node has the best tier that its rights permit, reports what is missing, and serves.

Rights are removed as container runtimes do (tests/support/confine.py). A missing requirement is refused with one
line and exit code 5; there is never a traceback (running_node looks for one).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.confine import DOCKER
from tests.support.confined import confined, inside, refused, workers
from tests.support.node import COMMAND, Node, running_node
from tests.support.waiting import poll
from velocity_edge.status.document import NodeStatus

pytestmark = [pytest.mark.root, pytest.mark.slow]

NO_BPF = "tier B (socket-ebpf): cannot create the map settings: needs CAP_BPF"
FILTERED = "tier B (socket-ebpf): cannot create the map settings: bpf(2) was refused although the process has CAP_BPF: "
NO_INTERFACE = "tier C (xdp): cannot choose an interface for the shield"
AS_ZERO = "workers run as user id 0, without capabilities: "
UNBOUND = "workers are not bound to CPUs: sched_setaffinity(2) failed: Operation not permitted"
HIDE_BPFFS = "umount -l /sys/fs/bpf || true; mount -t tmpfs -o ro none /sys/fs/bpf"
MANY = {"bpf": "EPERM", "sched_setaffinity": "EPERM", "setpriority": "EPERM", "clone3": "ENOSYS", "unshare": "EPERM"}
MANY |= {"io_uring_setup": "EPERM", "userfaultfd": "EPERM", "setns": "EPERM"}

#: Name -> confinement, tier, beginning of `missing`, beginning of the degraded message, the workers' uid.
CONTAINERS: dict[str, tuple[dict[str, Any], str, str, list[str], int]] = {
    "docker": ({"keep": DOCKER}, "A", NO_BPF, [], 65534),
    "nothing": (
        {"keep": []},
        "A",
        NO_BPF,
        [AS_ZERO + "to run them as nobody give the node CAP_SETUID and CAP_SETGID"],
        0,
    ),
    "one id": (
        {"users": [[0, 0, 1]], "setgroups": "deny"},
        "A",
        FILTERED,
        [AS_ZERO + "this user namespace has no user id 65534 for nobody"],
        0,
    ),
    "rootless": (
        {"users": [[0, 1000, 1]], "setgroups": "deny", "owner": 1000},
        "A",
        FILTERED,
        [AS_ZERO + "this user namespace has no user id 65534 for nobody"],
        1000,
    ),
    "many ids": ({"users": [[0, 100000, 65536]], "owner": 100000}, "A", FILTERED, [], 165534),
    "seccomp": ({"refuse": MANY}, "A", FILTERED, [UNBOUND], 65534),
    "process 1": ({"pid": True}, "B", NO_INTERFACE, [], 65534),
    "no bpffs": ({"script": HIDE_BPFFS, "drop": ["SYS_ADMIN"]}, "B", NO_INTERFACE, [], 65534),
    "everything at once": (
        {"keep": DOCKER, "refuse": MANY, "script": HIDE_BPFFS, "pid": True, "environment": {"HOME": None}},
        "A",
        NO_BPF,
        [UNBOUND],
        65534,
    ),
    "not root": ({"uid": 12345, "ambient": ["NET_BIND_SERVICE"], "owner": 12345}, "A", NO_BPF, [], 12345),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_node_serves_reloads_restarts_and_stops_with_each_set_of_rights(name: str) -> None:
    """Requests, reload, restart, the death of a worker; at the end SIGTERM (running_node)."""
    wanted, tier, missing, degraded, uid = CONTAINERS[name]
    with running_node(within=confined(**wanted), dispatch="auto", workers=2) as node:
        status = node.status()
        assert status["dispatch"]["tier"] == tier
        assert status["dispatch"]["missing"].startswith(missing)
        about_rights = [each for each in status["degraded"] if each.startswith("workers ")]
        assert len(about_rights) == len(degraded), about_rights
        assert all(said.startswith(words) for said, words in zip(about_rights, degraded, strict=True)), about_rights
        _doctor_agrees(node, wanted, status)
        _serves(node)
        for verb in ("reload", "restart"):
            done = inside(node, COMMAND, "admin", verb)
            assert done.returncode == 0, done.stderr
        _without_rights(node, uid)
        os.kill(int(workers(node)[0]["Pid"]), signal.SIGKILL)
        poll(lambda: node.status()["restarts"] == 1 and _ready(node) == 2, "a successor", 20)
        _serves(node)


def test_sixteen_workers_start_with_reduced_rights() -> None:
    """A supervisor with reduced rights starts sixteen workers. In an earlier version one of six got no CPU."""
    with running_node(within=confined(keep=DOCKER), dispatch="auto", workers=16) as node:
        cpus = {tuple(os.sched_getaffinity(int(worker["Pid"]))) for worker in workers(node)}
        assert cpus == {(cpu,) for cpu in os.sched_getaffinity(0)}
        assert "cannot start worker" not in node.log


@pytest.mark.parametrize("base", ["docker", "all"])
def test_node_starts_without_each_single_right(base: str) -> None:
    """One start each; the important sets are tested completely above."""
    keep = DOCKER if base == "docker" else None
    beyond = ["BPF", "NET_ADMIN", "PERFMON", "SYS_NICE", "SYS_ADMIN", "SYS_RESOURCE", "DAC_READ_SEARCH"]

    def start_without(name: str) -> None:
        with running_node(within=confined(keep=keep, drop=[name]), dispatch="auto") as node:
            _serves(node)
            as_zero = name in ("SETUID", "SETGID")
            assert any(AS_ZERO in each for each in node.status()["degraded"]) == as_zero
            _without_rights(node, 0 if as_zero else 65534)

    # The test mostly waits.
    with ThreadPoolExecutor(4) as side_by_side:
        list(side_by_side.map(start_without, DOCKER if base == "docker" else beyond))


@pytest.mark.parametrize(("keep", "tier"), [(["SETUID", "SETGID", "BPF", "NET_ADMIN", "PERFMON"], "B"), (DOCKER, "A")])
def test_hung_worker_is_ended_without_cap_kill(keep: list[str], tier: str) -> None:
    with running_node(within=confined(keep=keep, drop=["KILL"]), dispatch="auto") as node:
        assert node.status()["dispatch"]["tier"] == tier
        [worker] = workers(node)
        assert worker["Uid"].split()[0] == "65534"
        os.kill(int(worker["Pid"]), signal.SIGSTOP)
        poll(lambda: node.status()["restarts"] == 1 and _ready(node) == 1, "a successor of a worker that hangs", 40)


@pytest.mark.parametrize(
    ("wanted", "options", "sentence"),
    [
        ({"refuse": {"memfd_create": "EPERM"}}, [], "cannot serve here: memfd_create(2) for counters is refused"),
        ({"refuse": {"pidfd_open": "ENOSYS"}}, [], "cannot serve here: pidfd_open(2) for watching workers is refused"),
        ({"refuse": {"openat2": "EPERM"}}, [], "cannot serve here: openat2(2) for files of sites is refused"),
        ({"refuse": {"clone3": "EPERM"}}, [], "cannot serve here: starting a thread (clone3(2)) is refused"),
        ({"limits": {"NOFILE": [40, 40]}}, [], "cannot open the slots of "),
        ({"script": "mount -o remount,bind,ro /tmp || mount -o remount,bind,ro /"}, [], "cannot make the directory "),
        ({"keep": DOCKER}, ["--dispatch", "socket"], "cannot create the map settings: needs CAP_BPF"),
        (
            {"keep": []},
            ["--user", "nobody"],
            "cannot run workers as nobody: to run them as nobody give the node CAP_SETUID and CAP_SETGID",
        ),
        (
            {"users": [[0, 0, 1]], "setgroups": "deny"},
            ["--user", "nobody"],
            "cannot run workers as nobody: this user namespace has no user id 65534",
        ),
        (
            {"uid": 12345, "owner": 12345},
            ["--user", "nobody"],
            "cannot run workers as nobody: this node runs as user id 12345",
        ),
        (
            {"uid": 12345, "owner": 12345, "environment": {"HOME": None, "VELOCITY_STATE_DIR": None}},
            [],
            "cannot choose a directory for keys and certificates: user 12345 has no home; set VELOCITY_STATE_DIR",
        ),
    ],
)
def test_missing_requirement_is_one_message(wanted: dict[str, Any], options: list[str], sentence: str) -> None:
    """What was requested explicitly is not silently omitted."""
    code, said = refused(*options, **wanted)
    assert code == 5, said
    last = said.splitlines()[-1]
    assert last.startswith(f"velocity-edge: {sentence}"), said
    assert "Traceback" not in said


def _doctor_agrees(node: Node, wanted: dict[str, Any], status: NodeStatus) -> None:
    done = subprocess.run(
        [*confined(**wanted), COMMAND, "doctor", "--json"],
        env=node.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 6), done.stdout + done.stderr
    found = {finding["subject"]: finding["text"] for finding in json.loads(done.stdout)["findings"]}
    if status["dispatch"]["tier"] == "A":
        assert found["dispatch"] == f"tier A, not {status['dispatch']['missing']}"
    else:
        assert found["dispatch"].startswith("up to tier C")
    for sentence in status["degraded"]:
        if sentence.startswith(AS_ZERO):
            assert found["worker user"] == sentence
        if sentence.startswith(UNBOUND):
            assert UNBOUND in found["cores"]


def _serves(node: Node) -> None:
    done = node.command("client", "get", "--insecure", node.url())
    assert done.returncode == 0, done.stderr
    assert "served by velocity-edge" in done.stdout


def _ready(node: Node) -> int:
    return sum(worker["state"] == "ready" for worker in node.status()["workers"])


def _without_rights(node: Node, uid: int) -> None:
    found = workers(node)
    assert found
    for worker in found:
        assert worker["Uid"].split() == [str(uid)] * 4
        assert {int(worker[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
        assert worker["NoNewPrivs"] == "1"
