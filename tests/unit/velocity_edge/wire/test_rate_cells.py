"""What workers count together is counted once each, in bounded memory that keeps the heavy users."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from velocity_edge.wire import rate_cells
from velocity_edge.wire.rate_cells import WAYS, NotShared, RateCells
from velocity_edge.wire.rate_entry import EMPTY, MAX_WEIGHT, Change, State

LATER_MS = 60_000


@pytest.fixture
def cells() -> Iterator[RateCells]:
    memory = RateCells.private()
    yield memory
    memory.close()


def increment(state: State, until_ms: int = LATER_MS, weight: int = 1) -> Change[int]:
    count = state[0] + 1
    return count, (until_ms, weight, [count, *state[1:]])


def count(cells: RateCells, key: bytes, now_ms: int = 0, **how: int) -> int:
    return cells.change(key, now_ms, lambda state: increment(state, **how))


def test_each_key_has_a_state_of_its_own(cells: RateCells) -> None:
    assert [count(cells, key) for key in (b"a", b"a", b"b", b"", b"a", b"b")] == [1, 2, 1, 1, 3, 2]
    assert cells.change(b"a", 0, lambda state: (tuple(state), None)) == (3, *EMPTY[1:]), "None changes nothing"
    assert count(cells, b"a") == 4


def test_an_entry_whose_time_is_over_means_none(cells: RateCells) -> None:
    assert [count(cells, b"a", now) for now in (0, LATER_MS - 1, LATER_MS)] == [1, 2, 1]
    assert cells.evicted == 0


def test_the_lightest_of_a_full_set_makes_place_and_first_what_is_over() -> None:
    cells = RateCells(rate_cells.create(sets=1))
    for n in range(WAYS):
        count(cells, b"%d" % n, weight=100 + n, until_ms=1 if n == 5 else LATER_MS)
    assert count(cells, b"new", 2, weight=1) == 1
    assert (cells.evicted, count(cells, b"0", 2, weight=100)) == (0, 2), "the one that is over was replaced"
    for n in range(1000):
        assert count(cells, b"flood %d" % n, 2, weight=1) == 1
    assert cells.evicted == 1000
    survivors = [count(cells, b"%d" % n, 2, weight=MAX_WEIGHT) for n in range(WAYS) if n != 5]
    assert survivors == [3, 2, 2, 2, 2, 2, 2], "a flood of light keys replaces only its own"
    cells.close()


def test_a_stranger_cannot_tell_which_keys_share_a_set() -> None:
    """The same keys collide differently in each memory."""
    kept = []
    for _ in range(2):
        cells = RateCells(rate_cells.create(sets=4))
        for n in range(64):
            count(cells, b"%d" % n)
        kept.append([cells.change(b"%d" % n, 0, lambda state: (state[0], None)) for n in range(64)])
        cells.close()
    assert kept[0] != kept[1]


def test_other_memory_is_recognized_and_its_size_is_sealed() -> None:
    for content in (b"", b"vel-once" + bytes(100), b"vel-rate", b"vel-rate" + bytes(100_000)):
        fd = os.memfd_create("other")
        os.pwrite(fd, content, 0)
        with pytest.raises(NotShared):
            RateCells(fd)
        assert rate_cells.is_ours(fd) == content.startswith(b"vel-rate")
        os.close(fd)
    fd = rate_cells.create()
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    cells = RateCells(os.dup(fd))
    count(cells, b"a")
    assert os.fstat(fd).st_blocks * 512 < 65_536, "pages without an entry take no memory"
    cells.close()
    os.close(fd)


def _count_all(fd: int, times: int, begin: Any, result: Any) -> None:
    cells = RateCells(os.dup(fd))
    begin.wait()
    last = [count(cells, b"%d" % (n % 8)) for n in range(times)]
    result.put(len(last))


def test_concurrent_processes_count_everything() -> None:
    """Four processes on eight keys. A count is lost only when a writer is interrupted within its last step."""
    fork = multiprocessing.get_context("fork")
    fd = rate_cells.create()
    begin, result = fork.Barrier(4), fork.Queue()
    processes = [fork.Process(target=_count_all, args=(fd, 4000, begin, result)) for _ in range(4)]
    for process in processes:
        process.start()
    for _ in processes:
        result.get(timeout=60)
    for process in processes:
        process.join()
    cells = RateCells(fd)
    total = sum(cells.change(b"%d" % n, 0, lambda state: (state[0], None)) for n in range(8))
    assert 15_900 <= total <= 16_000
    cells.close()


def test_a_change_of_another_process_between_decision_and_write_is_not_lost() -> None:
    """Possible only without the lock, which a process that was stopped holds. (Locks are those of processes: here both
    writers have it.)"""
    fd = rate_cells.create()
    one, other = RateCells(os.dup(fd)), RateCells(fd)
    seen = []

    def decide(state: State) -> Change[int]:
        seen.append(state[0])
        if len(seen) == 1:
            count(other, b"a")
        return increment(state)

    assert (one.change(b"a", 0, decide), seen) == (2, [0, 1])
    for cells in (one, other):
        cells.close()


def _stop_inside(fd: int, ready: Any) -> None:
    def decide(state: State) -> Change[int]:
        ready.set()
        signal.pause()
        return increment(state)

    RateCells(os.dup(fd)).change(b"a", 0, decide)


def test_a_stopped_process_blocks_no_other() -> None:
    fork = multiprocessing.get_context("fork")
    fd = rate_cells.create()
    cells = RateCells(fd)
    ready = fork.Event()
    process = fork.Process(target=_stop_inside, args=(fd, ready))
    process.start()
    assert ready.wait(30)
    assert [count(cells, b"a"), count(cells, b"a")] == [1, 2]
    assert cells.contended == 2
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert (count(cells, b"a"), cells.contended) == (3, 2), "the kernel released the lock"
    cells.close()
