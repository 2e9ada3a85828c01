"""A worker that registered from a thread was known by that thread's id, which is not a process id (udpgrm,
March 2026); and two supervisors that start at once may both run. velocity-edge identifies workers by process
id and start time, whichever thread connects, and a lock that ends with its holder decides between supervisors.
"""

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supervisor.machine.slots import Slots
from supervisor.machine.spawn import start_ticks
from supervisor.succession.adoption import Adoption
from supervisor.succession.saved_state import SavedState, SavedWorker
from supervisor.succession.state_file import StateFile
from velocity_edge.errors import VelocityError
from velocity_edge.wire.messages import Listener

WORKER = """
import os, socket, sys, threading
from velocity_edge.wire import messages as m
from velocity_edge.wire.channel import Channel

def come_back():
    print(threading.get_native_id(), flush=True)
    sys.stdin.readline()
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.connect(sys.argv[1])
    channel = Channel(end, m.decode_order)
    channel.send(m.Hello(7, os.getpid(), "portable", "test", revision=1))
    channel.send(m.Held(0), [int(fd) for fd in sys.argv[2].split(",")])
    channel.send(m.Held(1), [int(fd) for fd in sys.argv[3].split(",")])
    sys.stdin.readline()

thread = threading.Thread(target=come_back)
thread.start()
thread.join()
"""


@pytest.mark.slow
@pytest.mark.parametrize("by_process", [True, False])
def test_worker_can_register_from_a_thread(tmp_path: Path, by_process: bool) -> None:
    """The naive version uses the id of the thread: no process with that id connects."""
    slots = Slots.open([Listener("127.0.0.1", 0)], 1)
    fds = [slot.bundle.pack() for slot in slots]
    path = tmp_path / "workers.sock"
    child = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), *(",".join(map(str, each)) for each in fds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[fd for each in fds for fd in each],
        cwd=Path(__file__).parents[2],
    )
    assert child.stdin
    assert child.stdout

    async def adopted() -> list[int]:
        thread = int(child.stdout.readline())  # type: ignore[union-attr]
        pid = child.pid if by_process else thread
        ticks = start_ticks(pid)
        assert ticks is not None
        worker = SavedWorker(7, 0, 0, pid, ticks, leaving=False)
        saved = SavedState("boot", 1, [0], 1, 8, 1, slots.listeners, [worker], [], None)
        adoption = Adoption(path, saved)
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, lambda: (child.stdin.write("\n"), child.stdin.flush()))  # type: ignore[union-attr]
        returned = await adoption.gather()
        for each in returned:
            each.process.close()
            each.channel.close()
        for held in adoption.held.values():
            held.close()
        return [each.saved.worker_id for each in returned]

    try:
        if by_process:
            assert asyncio.run(adopted()) == [7]
        else:
            # pidfd_open(2): the id is not that of a process.
            with pytest.raises(OSError, match=r"Invalid argument|No such file"):
                asyncio.run(adopted())
    finally:
        child.kill()
        child.communicate()
        slots.close()


def race(start: "type[StateFile]", directory: Path) -> int:
    """Start eight supervisors at once; return how many continue."""
    barrier, held = threading.Barrier(8), []

    def one() -> None:
        barrier.wait()
        try:
            held.append(start(directory))
        except VelocityError:
            pass

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(one) for _ in range(8)]:
            future.result()
    for state_file in held:
        state_file.close()
    return len(held)


def test_exactly_one_of_eight_supervisors_starts(tmp_path: Path) -> None:
    for number in range(20):
        directory = tmp_path / str(number)
        directory.mkdir()
        assert race(StateFile, directory) == 1


def test_pid_file_lets_several_supervisors_start(tmp_path: Path) -> None:
    """The naive version: look whether the file names a living process, else write ours."""

    class Naive:
        def __init__(self, directory: Path) -> None:
            path = directory / "pid"
            if path.exists() and start_ticks(int(path.read_text() or 0)):
                raise VelocityError("there is one")
            os.sched_yield()
            path.write_text(str(os.getpid()))

        def close(self) -> None:
            pass

    wins = []
    for number in range(50):
        directory = tmp_path / str(number)
        directory.mkdir()
        wins.append(race(Naive, directory))  # type: ignore[arg-type]
    assert max(wins) > 1
