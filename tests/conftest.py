"""Hooks of every test run: skips without root, the list of skipped tests, and the search for leftovers.

  * Tests marked `root` are skipped without root; tests that need a client skip themselves.
  * The run ends with a block "N SKIPPED:" with each reason and its count: a skipped test proves nothing.
  * Processes, network namespaces, mounts and pins that the run left behind are listed as "LEFT OVER:" and fail it.

A process belongs to the run when its environment has the run's mark: that is always an error. A namespace, a mount, a
pin and a process of a node (setproctitle overwrites its environment) have no mark: on a shared machine
they may belong to another run and are only listed; with VELOCITY_ALONE=1 (.ci/run) they are an error.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

MARK = "VELOCITY_TEST_RUN"
#: How long processes that were told to stop may take before they count as left over.
LEAVE_S = 5.0

LeftOver = list[str]
_before = pytest.StashKey[dict[str, set[str]]]()
_left = pytest.StashKey[LeftOver]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root (namespaces, BPF programs, pins)"))


def pytest_collection_finish() -> None:
    """Many tests collect garbage, and would look at thousands of collected tests each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short path: a Unix socket's path may have 107 bytes, and tmp_path is long."""
    path = Path(tempfile.mkdtemp(prefix="ve-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


# --- what is left over ------------------------------------------------------------------------------------------------


def _is_part(config: pytest.Config) -> bool:
    """Whether this process runs a part of the tests for another one (pytest-xdist), which looks at what is left."""
    return hasattr(config, "workerinput")


def pytest_sessionstart(session: pytest.Session) -> None:
    if _is_part(session.config):
        return  # its environment already has the mark
    os.environ[MARK] = f"{os.getpid()}-{time.time_ns()}"
    session.config.stash[_before] = {kind: look() for kind, look in SHARED.items()}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    before = session.config.stash.get(_before, None)
    if before is None:
        return
    left = [f"process {name}" for name in _wait_until_gone(os.environ[MARK])]
    fatal = bool(left)
    alone = os.environ.get("VELOCITY_ALONE") == "1"
    for kind, look in SHARED.items():
        for name in sorted(look() - before[kind]):
            left.append(f"{kind} {name}" + ("" if alone else " (or another run's: this machine is shared)"))
            fatal = fatal or alone
    session.config.stash[_left] = left
    if fatal and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _wait_until_gone(mark: str) -> list[str]:
    deadline = time.monotonic() + LEAVE_S
    while (names := _processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return names


def _processes(mark: str = "") -> list[str]:
    """All processes; with a mark those that have it in their environment: descendants of this run, also orphans."""
    wanted = f"{MARK}={mark}".encode()
    names = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if int(directory.name) == os.getpid():
                continue
            if mark and wanted not in (directory / "environ").read_bytes().split(b"\0"):
                continue
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if command:  # a zombie has none; its parent reaps it or is listed itself
            names.append(f"{directory.name}: {command[:120]}")
    return names


def _namespaces() -> set[str]:
    directory = Path("/run/netns")
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def _mounts() -> set[str]:
    # A namespace's own mount is listed by _namespaces; bpffs stays mounted once a node has needed it.
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return {point for point in points if not point.startswith(("/run/netns", "/sys/fs/bpf"))}


def _pins() -> set[str]:
    return {str(path) for path in Path("/sys/fs/bpf/velocity-edge").glob("*")}


def _nodes() -> set[str]:
    return {line for line in _processes() if line.partition(": ")[2].startswith("velocity-edge")}


SHARED = {"process": _nodes, "network namespace": _namespaces, "mount": _mounts, "pin": _pins}


# --- the end of a run -----------------------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skipped = Counter(_reason(report) for report in terminalreporter.getreports("skipped"))
    if skipped:
        terminalreporter.section(f"{skipped.total()} SKIPPED:", sep="!", yellow=True, bold=True)
        for reason, count in skipped.most_common():
            terminalreporter.line(f"{count:5d} x {reason}", yellow=True)
    left = config.stash.get(_left, [])
    if left:
        terminalreporter.section("LEFT OVER:", sep="!", red=True, bold=True)
        for line in left:
            terminalreporter.line(line, red=True)


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr)
