"""A token counts as new once on a node, in any process, and never when that cannot be determined."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from velocity_edge.quic import single_use
from velocity_edge.quic.single_use import NotShared, UsedTokens
from velocity_edge.quic.tokens import NEW_TOKEN_LIFETIME_S as DAY

NOW_S = 1_000 * DAY
PAGE = mmap.PAGESIZE


@pytest.fixture
def used() -> Iterator[UsedTokens]:
    memory = UsedTokens(single_use.create(NOW_S))
    yield memory
    memory.close()


def name(number: int) -> bytes:
    return number.to_bytes(12, "big")


def test_once_and_for_each_token(used: UsedTokens) -> None:
    assert [used.first_use(name(n), NOW_S, NOW_S) for n in (1, 1, 2, 9, 1, 9, 10)] == [1, 0, 1, 1, 0, 0, 1]


def test_a_token_is_remembered_for_its_lifetime(used: UsedTokens) -> None:
    """Two epochs are kept, so that a token that is used late is recognized when it comes again."""
    issued_s = NOW_S + 0.9 * DAY
    for now_s in (issued_s, issued_s + 0.5 * DAY, issued_s + DAY):
        assert used.first_use(name(int(now_s)), issued_s, now_s)
        assert used.first_use(name(int(now_s)), now_s, now_s) == (now_s >= NOW_S + DAY), "the same bit of a later epoch"
        assert not used.first_use(name(int(now_s)), issued_s, now_s)


def test_an_ended_epoch_is_cleared_for_a_later_one(used: UsedTokens) -> None:
    assert used.first_use(name(5), NOW_S, NOW_S)
    assert used.first_use(name(5), NOW_S + 2 * DAY, NOW_S + 2 * DAY)
    assert not used.first_use(name(5), NOW_S + 2 * DAY, NOW_S + 2 * DAY)
    assert not used.first_use(name(6), NOW_S, NOW_S + 2 * DAY), "its bits are gone, so it cannot be known"


def test_what_was_issued_before_the_memory_was_made_counts_as_used(used: UsedTokens) -> None:
    assert not used.first_use(name(1), NOW_S - 0.001, NOW_S)
    assert used.first_use(name(1), NOW_S, NOW_S)


def test_a_clock_that_was_ahead_does_not_refuse_tokens_until_then() -> None:
    for ahead_s in (30.0, DAY, 400 * DAY):
        used = UsedTokens(single_use.create(NOW_S + ahead_s))
        assert used.first_use(name(1), NOW_S + ahead_s, NOW_S + ahead_s)
        assert not used.first_use(name(2), NOW_S - 1, NOW_S)
        assert used.first_use(name(2), NOW_S + 1, NOW_S + 1)
        assert not used.first_use(name(2), NOW_S + 1, NOW_S + 1)
        used.close()


def test_an_epoch_begun_while_the_clock_was_ahead_is_replaced(used: UsedTokens) -> None:
    assert used.first_use(name(1), NOW_S + 400 * DAY, NOW_S + 400 * DAY)
    assert used.first_use(name(2), NOW_S + 1, NOW_S + 1)
    assert not used.first_use(name(2), NOW_S + 1, NOW_S + 1)


def test_other_memory_is_recognized() -> None:
    for content in (b"", b"vel-slab" + bytes(100), b"vel-once", b"vel-once" + bytes(PAGE * 2)):
        fd = os.memfd_create("other")
        os.pwrite(fd, content, 0)
        with pytest.raises(NotShared):
            UsedTokens(fd)
        assert single_use.is_ours(fd) == content.startswith(b"vel-once")
        os.close(fd)
    read_end, write_end = os.pipe()
    assert not single_use.is_ours(read_end)
    for fd in (read_end, write_end):
        os.close(fd)


def test_its_size_is_sealed() -> None:
    fd = single_use.create(NOW_S)
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    os.close(fd)


def test_pages_without_a_token_take_no_memory() -> None:
    fd = single_use.create(NOW_S)
    used = UsedTokens(os.dup(fd))
    assert used.first_use(name(1), NOW_S, NOW_S)
    assert os.fstat(fd).st_blocks * 512 <= 4 * PAGE
    for number in range(300):
        used.first_use(os.urandom(12), NOW_S + number % 2 * DAY, NOW_S + DAY)
    before = os.fstat(fd).st_blocks
    used.first_use(name(1), NOW_S + 2 * DAY, NOW_S + 2 * DAY)
    assert os.fstat(fd).st_blocks < before * 0.7, "an epoch that is over gives its memory back"
    used.close()
    os.close(fd)


def _use_all(fd: int, count: int, begin: Any, result: Any) -> None:
    used = UsedTokens(os.dup(fd))
    begin.wait()
    result.put(sum(used.first_use(name(8 * n), NOW_S, NOW_S) for n in range(count)))


def test_concurrent_processes_do_not_both_use_a_token() -> None:
    """Four workers, the same two thousand tokens. None is lost to another's write in the same byte."""
    fork = multiprocessing.get_context("fork")
    fd = single_use.create(NOW_S)
    begin, result = fork.Barrier(4), fork.Queue()
    processes = [fork.Process(target=_use_all, args=(fd, 2000, begin, result)) for _ in range(4)]
    for process in processes:
        process.start()
    first_uses = [result.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    used = UsedTokens(fd)
    assert sum(first_uses) <= 2000
    # One that two asked for at the same instant may have been refused to both: it counts as used then.
    later = sum(used.first_use(name(8 * n), NOW_S, NOW_S) for n in range(2000))
    assert sum(first_uses) + later == 2000
    used.close()


def _hold_the_lock(fd: int, ready: Any) -> None:
    used = UsedTokens(os.dup(fd))
    with used._locked(PAGE + 8192):
        ready.set()
        signal.pause()


def test_a_stopped_or_ended_process_blocks_no_other() -> None:
    fork = multiprocessing.get_context("fork")
    fd = single_use.create(0.0)
    used = UsedTokens(fd)
    ready = fork.Event()
    process = fork.Process(target=_hold_the_lock, args=(fd, ready))
    process.start()
    assert ready.wait(30)
    assert not used.first_use(name(8 * 8192), 1.0, 1.0), "its byte is locked: it cannot be known"
    assert used.first_use(name(8 * 8193), 1.0, 1.0)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert used.first_use(name(8 * 8192), 1.0, 1.0)
    used.close()
