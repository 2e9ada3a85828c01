"""A worker that runs out of memory dies and is replaced like any other; the log has the reason."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Node, running_node
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Options, connect
from velocity_edge.errors import VelocityError

pytestmark = pytest.mark.slow

_CGROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def little_memory(pid: int, limit_bytes: int) -> Iterator[None]:
    """Move a process into a control group with this much memory for its future allocations."""
    first, second = _CGROUPS / "memory", _CGROUPS
    if (first / "cgroup.procs").exists():
        group, name = first / f"velocity-test-{os.getpid()}", "memory.limit_in_bytes"
    elif "memory" in (second / "cgroup.subtree_control").read_text().split():
        group, name = second / f"velocity-test-{os.getpid()}", "memory.max"
    else:
        pytest.skip("no memory controller for control groups here")
    try:
        group.mkdir()
        (group / name).write_text(str(limit_bytes))
    except OSError as error:
        pytest.skip(f"no control groups of our own: {error}")
    try:
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        poll(lambda: _removed(group), "an empty group")


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


async def _take_memory(node: Node, pid: int) -> None:
    """Open connections and keep them, until the worker is gone."""

    async def some() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(60):
                if not _alive(pid):
                    return
                with contextlib.suppress(VelocityError):
                    connection = await stack.enter_async_context(
                        connect(node.url(), Options(cafile=node.ca, timeout_s=3.0))
                    )
                    await connection.request("GET", "/")

    async with asyncio.timeout(60):
        await asyncio.gather(*(some() for _ in range(4)))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


def _replaced(node: Node, pid: int) -> bool:
    [worker] = node.status()["workers"] or [None]
    return worker is not None and worker["pid"] != pid and worker["state"] == "ready"


@pytest.mark.root
def test_worker_ended_by_the_oom_killer_is_replaced_and_logged() -> None:
    with running_node(workers=1) as node:
        pid = node.status()["workers"][0]["pid"]
        with little_memory(pid, 256 * 1024):
            asyncio.run(_take_memory(node, pid))
        poll(lambda: _replaced(node, pid), "a successor", 30)
        assert "was killed, probably by the kernel: it has just killed a process because memory ran out" in node.log
        asyncio.run(_ask(node))


def test_worker_whose_allocations_fail_is_replaced_and_logged() -> None:
    # A library that gets no memory may print a traceback of its own before it aborts.
    with running_node(workers=1, tracebacks=True) as node:
        pid = node.status()["workers"][0]["pid"]
        # Less than it uses now: every further allocation fails (setrlimit(2), RLIMIT_AS).
        # The process's own user may always do this; root only with CAP_SYS_RESOURCE.
        owner = Path(f"/proc/{pid}").stat()
        groups: dict[str, Any] = {"extra_groups": [], "group": owner.st_gid} if os.geteuid() == 0 else {}
        subprocess.run(["prlimit", f"--pid={pid}", "--as=1"], user=owner.st_uid, **groups, check=True)
        asyncio.run(_take_memory(node, pid))
        poll(lambda: _replaced(node, pid), "a successor", 30)
        # The failing allocation decides how the process ends: Python raises, OpenSSL's binding (Rust) aborts.
        said = ("exited with 71: it could not allocate memory", "memory allocation of")
        assert any(each in node.log for each in said)
        assert "of core 0 died: " in node.log
        asyncio.run(_ask(node))


async def _ask(node: Node) -> None:
    async with connect(node.url(), Options(cafile=node.ca, timeout_s=20.0)) as connection:
        assert (await connection.request("GET", "/")).status == 200
