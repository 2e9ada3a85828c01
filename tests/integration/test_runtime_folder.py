"""A removed runtime directory is created again, a failing disk is reported, and the node continues.

`admin stop` answers when the node has stopped, whatever happened to its files.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.supervised import Supervised, supervised
from tests.support.waiting import poll

SHIM = Path(__file__).parent.parent / "support" / "c" / "failing_files.c"
CLI = [str(Path(sys.executable).parent / "velocity-edge")]


@pytest.fixture(name="node")
def _node() -> Iterator[Supervised]:
    with supervised() as node:
        yield node


def remove_folder(node: Supervised) -> None:
    """The node may create it again meanwhile."""
    shutil.rmtree(node.directory / "run", ignore_errors=True)


def answers(node: Supervised) -> dict[str, Any] | None:
    try:
        return node.status()
    except (OSError, http.client.HTTPException):
        return None


def pids(status: dict[str, Any]) -> list[int]:
    return [worker["pid"] for worker in status["workers"]]


# --- the folder is removed


def test_removed_runtime_directory_is_created_again(node: Supervised) -> None:
    before = node.status()
    remove_folder(node)
    after = poll(lambda: answers(node), "the node to answer again")
    assert pids(after) == pids(before)
    run = node.directory / "run"
    assert run.stat().st_mode & 0o777 == 0o755
    assert (run / "admin.sock").stat().st_mode & 0o777 == 0o660
    assert [w["pid"] for w in json.loads((run / "state.json").read_text())["workers"]] == pids(before)
    assert "was removed while this node runs" in node.log
    second = node.start()
    assert second.wait(20) == 1
    node.processes.pop()
    assert f"a node runs in {run} already (process {node.process.pid})" in node.log
    # The next supervisor finds the workers.
    node.process.kill()
    node.process.wait()
    node.start()
    assert pids(node.wait_for_serving()) == pids(before)


def test_removed_socket_or_lock_is_created_again(node: Supervised) -> None:
    for name in ("admin.sock", "supervisor.lock", "state.json"):
        (node.directory / "run" / name).unlink()
        poll((node.directory / "run" / name).exists, f"{name} to come back")
        assert poll(lambda: answers(node), "an answer")["state"] == "serving"


def test_disable_file_of_a_drained_node_is_created_again() -> None:
    with supervised() as node:
        assert node.post("drain", settle_s=0, spread_s=0)[1][-1]["exit_code"] == 0
        remove_folder(node)
        poll((node.directory / "run" / "disabled").exists, "the disable file to come back")
        assert poll(lambda: answers(node), "an answer")["disabled"]
        node.post("resume")
        poll(lambda: not node.status()["disabled"], "the disable file to go")


def test_runtime_directory_of_another_node_is_not_touched(node: Supervised) -> None:
    remove_folder(node)
    run = node.directory / "run"
    run.mkdir(mode=0o755)
    lock = os.open(run / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    poll(lambda: "cannot hold" in node.log, "the node to notice")
    node.process.send_signal(2)
    assert node.ended() == 0
    assert [path.name for path in run.iterdir()] == ["supervisor.lock"]
    os.close(lock)


@pytest.mark.parametrize("character", ["good", "busy"])
def test_removed_runtime_directory_does_not_disturb_a_stop(character: str) -> None:
    with supervised(character, workers=2, server__drain__timeout="1s") as node:
        workers = pids(node.status())
        lines: list[Any] = []
        asking = threading.Thread(target=lambda: lines.extend(node.post("stop")[1]))
        asking.start()
        poll(lambda: "stopping" in node.log, "the stop to begin")
        remove_folder(node)
        assert node.ended() == 0
        asking.join()
        assert (lines[-1]["text"], lines[-1]["exit_code"]) == ("stopped", 0)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


# --- stop answers when it has stopped


def test_stop_answers_when_everything_has_ended() -> None:
    with supervised("busy", server__drain__timeout="1s") as node:
        workers, (host, port) = pids(node.status()), node.address
        lines = node.post("stop")[1]
        # At once.
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((host, port))
        assert lines[-1] == {"ok": True, "text": "stopped", "exit_code": 0}
        assert any("is gone" in line["text"] for line in lines)
        assert node.ended() == 0
        # The next one starts at once.
        node.settings["server.listen"] = [f"{host}:{port}"]
        node.start()
        node.wait_for_serving()


def test_stop_waits_up_to_its_timeout_and_fast_stop_ends_at_once() -> None:
    with supervised("busy", server__drain__timeout="10m") as node:
        ask = [*CLI, "admin", "stop"]
        options: Any = {"env": node.environment, "capture_output": True, "text": True, "check": False}
        first = subprocess.run([*ask, "--timeout", "2s"], **options)
        assert first.returncode == 4, first
        assert "cannot wait longer than 2 s: the node goes on" in first.stderr
        assert node.status()["state"] == "stopping"
        second = subprocess.run([*ask, "--fast"], **options)
        assert second.returncode == 0, second
        assert second.stdout.splitlines()[-1].endswith("  stopped")
        assert node.ended() == 0


def test_death_of_the_supervisor_during_a_stop_is_an_error() -> None:
    with supervised("busy", server__drain__timeout="10m") as node:
        asking = subprocess.Popen(
            [*CLI, "admin", "stop"], env=node.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        poll(lambda: "stopping" in node.log, "the stop to begin")
        node.process.kill()
        out, errors = asking.communicate(timeout=20)
        assert asking.returncode == 3, (out, errors)
        assert "`velocity-edge admin stop --orphans` ends what is left of it" in errors


# --- the disk fails


@pytest.fixture(name="shim", scope="module")
def _shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    made = tmp_path_factory.mktemp("shim") / "failing_files.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, SHIM, "-ldl"], check=True)
    return made


@pytest.fixture(name="failing")
def _failing(shim: Path) -> Iterator[tuple[Supervised, Callable[[int], None]]]:
    """A node, and the error with which its file operations fail from now on."""
    with supervised(start=False) as node:
        switch = node.directory / "switch"
        switch.write_bytes(bytes(4))
        node.environment |= {
            "LD_PRELOAD": str(shim),
            "FAILING_SWITCH": str(switch),
            "FAILING_FOLDER": f"{node.directory}/run",
        }

        def fail(number: int) -> None:
            with switch.open("r+b") as file:
                file.write(struct.pack("=i", number))

        node.start()
        node.wait_for_serving()
        yield node, fail
        fail(0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOENT])
def test_failing_disk_is_reported_and_the_node_continues(
    failing: tuple[Supervised, Callable[[int], None]], number: int
) -> None:
    node, fail = failing
    fail(number)
    before = node.status()
    assert node.post("restart")[1][-1]["exit_code"] == 0
    assert node.post("quiesce", mode="immediate")[1][-1]["exit_code"] == 0
    node.post("resume")
    drained = node.post("drain", settle_s=0, spread_s=0)[1][-1]
    assert drained["exit_code"] == 1, drained
    assert "cannot write" in drained["text"]
    status = node.wait_until("the trouble in status", lambda s: any("state.json" in line for line in s["degraded"]))
    assert status["state"] == "serving"
    assert pids(status) != pids(before)
    assert any(os.strerror(number) in line for line in status["degraded"])
    assert node.log.count("cannot write") < 10, node.log
    fail(0)
    status = node.wait_until("the trouble to end", lambda s: not any("cannot" in line for line in s["degraded"]))
    saved = json.loads((node.directory / "run" / "state.json").read_text())
    assert [w["pid"] for w in saved["workers"]] == pids(status)
    fail(number)
    assert node.post("stop")[1][-1]["text"] == "stopped"
    assert node.ended() == 0


def test_rotation_fails_when_keys_cannot_be_stored(
    shim: Path, failing: tuple[Supervised, Callable[[int], None]]
) -> None:
    node, fail = failing
    node.post("stop")
    node.ended()
    node.environment["FAILING_FOLDER"] = f"{node.directory}/state"
    fail(0)
    node.start()
    node.wait_for_serving()
    fail(errno.ENOSPC)
    code, answer = node.post("tickets/rotate")
    assert code == 409, answer
    assert "No space left" in answer["error"]
    node.wait_until("the audit log in status", lambda s: any("audit.log" in line for line in s["degraded"]))
    fail(0)
    assert node.post("tickets/rotate")[1][-1]["exit_code"] == 0
    node.wait_until("the end of the trouble", lambda s: not any("cannot" in line for line in s["degraded"]))
