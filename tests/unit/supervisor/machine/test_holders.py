"""The error for a used port names its holder and the command that frees it; text of other processes is escaped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.machine import holders, sockets
from supervisor.succession import orphans
from tests.support.waiting import poll
from velocity_edge.errors import VelocityError
from velocity_edge.wire.messages import Listener
from velocity_edge.wire.titles import Orphan, orphan_of, without_supervisor, worker_title

HOLDER = """
import os, signal, socket, sys, setproctitle
host, title, stubborn = sys.argv[1:]
sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((host, 0))
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if title:
    setproctitle.setproctitle(title)
print(sock.getsockname()[1], flush=True)
signal.pause()
"""


@contextmanager
def holder(title: str = "", host: str = "127.0.0.1", stubborn: str = "") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds a port, with this title."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, host, title, stubborn], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def refusal(port: int, host: str = "127.0.0.1") -> str:
    with pytest.raises(VelocityError) as refused:
        sockets.open_listeners([Listener(host, port)], 1)
    return str(refused.value)


def alone(runtime: str, worker_id: int = 17) -> str:
    return worker_title(worker_id, 0, "drained" + without_supervisor(runtime, 1_000_000_000.0), 0)


def test_a_title_is_parsed() -> None:
    assert orphan_of(alone("/run/x y")) == Orphan(17, "/run/x y", "2001-09-09T01:46:40Z")
    # From a version without the runtime directory.
    assert orphan_of("velocity-edge: worker 3 core 1 · serving without supervisor · 1 connection") == Orphan(3, "", "")
    for other in (worker_title(17, 0, "serving", 3), "", "velocity-edge: supervisor", "vim " + alone("/run/x")):
        assert orphan_of(other) is None


def test_another_program_is_named_escaped() -> None:
    with holder("dns\x1b[31m\nmasq") as (process, port):
        text = refusal(port)
    assert f"another program listens there: process {process.pid} (`dns\\x1b[31m\\nmasq`, started" in text
    assert text.isprintable()


@pytest.mark.parametrize(("ours", "theirs"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("::", "127.0.0.1")])
def test_a_wildcard_conflicts_with_an_address_and_the_reverse(ours: str, theirs: str) -> None:
    with holder(host=theirs) as (process, port):
        assert f"process {process.pid} " in refusal(port, ours)


def test_an_orphan_of_this_node_is_named_with_the_command_that_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VELOCITY_RUNTIME_DIR", str(tmp_path))
    with holder(alone(str(tmp_path))) as (process, port):
        text = refusal(port)
        assert f"worker 17 of the node in {tmp_path} (process {process.pid}), which has no supervisor" in text
        assert "since 2001-09-09T01:46:40Z: `velocity-edge admin stop --orphans` ends it" in text
        assert orphans.end_orphans() == "1 workers ended"
        assert process.wait(5) == -15
        assert sockets.open_listeners([Listener("127.0.0.1", port)], 1)[1][0][0].close() is None


def test_an_orphan_of_another_node_is_named_with_its_runtime_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VELOCITY_RUNTIME_DIR", str(tmp_path))
    with holder(alone("/run/elsewhere")) as (process, port):
        assert "`VELOCITY_RUNTIME_DIR=/run/elsewhere velocity-edge admin stop --orphans` ends it" in refusal(port)
        assert orphans.end_orphans() == "nothing is left of an earlier node"
        assert process.poll() is None


def test_a_running_node_is_named_with_its_runtime_directory(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "supervisor.lock", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(lock, True)
    program = [sys.executable, "-c", HOLDER, "127.0.0.1", "velocity-edge: supervisor serving", ""]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, pass_fds=[lock])
    try:
        assert process.stdout is not None
        text = refusal(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        os.close(lock)
    assert f"the velocity-edge node in {tmp_path} (process {process.pid}, started" in text
    assert f"`VELOCITY_RUNTIME_DIR={tmp_path} velocity-edge admin stop` stops it" in text


def test_without_permission_orphans_are_named_as_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "_open_files", lambda pid: iter(()))
    with holder() as (_, port):
        assert "`ss -ulpn` as root shows which one" in refusal(port)
    with holder(alone("/run/elsewhere", 4711)) as (_, port):
        text = refusal(port)  # there may be other orphans on this machine
    assert "perhaps it is worker " in text
    assert "worker 4711 of the node in /run/elsewhere" in text


def test_an_orphan_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELOCITY_RUNTIME_DIR", str(tmp_path / "gone"))
    monkeypatch.setattr(orphans, "_PATIENCE_S", 0.2)
    with holder(alone(str(tmp_path / "gone")), stubborn="yes") as (process, _):
        assert orphans.end_orphans() == "1 workers ended"
        assert poll(process.poll, "its end") == -9
    assert orphans.end_orphans() == f"nothing is left: there is no {tmp_path / 'gone'}"
