"""A worker is adopted, with its sockets, when state.json names it and it connects in time; others are not."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.machine import spawn
from supervisor.machine.slots import Slots
from supervisor.succession import adoption
from supervisor.succession.adoption import Adoption
from supervisor.succession.saved_state import SavedWorker
from tests.unit.supervisor.succession.test_state_file import LOOPBACK, saved
from velocity_edge.wire import messages
from velocity_edge.wire.channel import Channel


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "PATIENCE_S", 1.0)


def worker(pid: int, slot: int = 0) -> SavedWorker:
    return SavedWorker(7 + slot, 0, slot, pid, spawn.start_ticks(pid) or 0, False)


def test_a_worker_comes_back_with_the_sockets_of_both_slots(tmp_path: Path) -> None:
    slots = Slots.open([LOOPBACK], cores=1)
    state = replace(saved(), cores=1, listeners=slots.listeners, workers=[worker(os.getpid())])
    path = tmp_path / "workers.sock"

    async def play() -> None:
        waiting = Adoption(path, state)
        task = asyncio.ensure_future(waiting.gather())
        await asyncio.sleep(0)  # it listens
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.connect(str(path))
        channel: Channel[messages.Order] = Channel(end, messages.decode_order)
        channel.send(messages.Hello(7, os.getpid(), "portable", "test", revision=1), [])
        for slot in (1, 0):
            channel.send(messages.Held(slot), slots[slot].bundle.pack())
        channel.send(messages.Heartbeat(3, 0, 0, 0.1, 1, {}), [])
        [returned] = await task
        assert returned.hello is not None
        assert (returned.hello.worker_id, returned.slots) == (7, {0, 1})
        assert [held.udp[0].getsockname() for held in waiting.held.values()] == [slots[0].udp[0].getsockname()] * 2
        for held in waiting.held.values():
            held.close()
        returned.process.close()
        returned.channel.close()
        channel.close()

    asyncio.run(play())
    slots.close()
    assert not path.exists()


STRANGER = """
import socket, sys, time
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
end.settimeout(5)
while True:
    try:
        end.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.02)
try:
    end.send(eval(sys.argv[2]))  # an unknown process may have been disconnected by then
    end.recv(10)
except OSError:
    pass
time.sleep(60)
"""


def come(path: Path, words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", STRANGER, str(path), words], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("words", ["b'junk'", "b'.junk'", 'b\'{"kind": "Hello"}\'', "bytes(60000)"])
def test_a_worker_with_invalid_messages_is_killed(tmp_path: Path, words: str, caplog: pytest.LogCaptureFixture) -> None:
    process = come(tmp_path / "workers.sock", words)
    state = replace(saved(), workers=[worker(process.pid)])

    async def play() -> None:
        assert await Adoption(tmp_path / "workers.sock", state).gather() == []

    try:
        asyncio.run(play())
        assert process.wait(5) == -signal.SIGKILL
    finally:
        process.kill()
    assert "did not report in time and in full: killed" in caplog.text


def test_an_unknown_process_is_disconnected_and_not_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    silent = subprocess.Popen(["sleep", "60"])
    stranger = come(tmp_path / "workers.sock", "b'{}'")
    state = replace(saved(), workers=[worker(silent.pid)])

    async def play() -> None:
        assert await Adoption(tmp_path / "workers.sock", state).gather() == []

    try:
        asyncio.run(play())
        assert f"process {stranger.pid} connected to" in caplog.text
        assert "is not our worker" in caplog.text
        assert stranger.poll() is None
        assert silent.wait(5) == -signal.SIGKILL, "it did not connect"
    finally:
        for process in (silent, stranger):
            process.kill()
            process.wait()


def test_dead_workers_are_not_awaited(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    gone = worker(process.pid)
    deadline_s = time.monotonic() + 5.0
    while spawn.start_ticks(process.pid) is not None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    # Dead, and not reaped: as orphans stay in a container whose first process does not reap.
    state = replace(saved(), workers=[gone, SavedWorker(9, 0, 1, os.getpid(), 1, False)])

    async def play() -> None:
        assert await Adoption(tmp_path / "workers.sock", state).gather() == []

    asyncio.run(play())
    process.wait()
