"""Early data of one ticket is accepted once, by one worker, and not at all when that cannot be determined."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from velocity_edge.tls.replay import DirectoryGuard, early_data_context


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_once(directory: int) -> None:
    one, two = DirectoryGuard(directory), DirectoryGuard(directory)
    assert one.first_use(b"a" * 12, 1000.0, 1000.0)
    assert not two.first_use(b"a" * 12, 1000.0, 1000.0)
    assert two.first_use(b"b" * 12, 1000.0, 1000.0)
    assert not one.first_use(b"b" * 12, 1000.0, 1009.0)


def test_a_replay_meets_the_same_window(directory: int) -> None:
    """It carries the same claim, at any time that counts as fresh."""
    guard = DirectoryGuard(directory)
    for number, claimed_s in enumerate((1000.0, 1019.9, 1020.0)):
        name = bytes((number,)) * 12
        assert guard.first_use(name, claimed_s, claimed_s - 10.0)
        assert not guard.first_use(name, claimed_s, claimed_s + 10.0)


def test_once_among_processes(directory: int) -> None:
    names = [os.urandom(12) for _ in range(500)]
    readers = []
    for _ in range(4):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            guard = DirectoryGuard(directory)
            won = sum(guard.first_use(name, 1000.0, 1000.0) for name in names)
            os.write(writer, won.to_bytes(4, "big"))
            os._exit(0)
        os.close(writer)
        readers.append((pid, reader))
    total = 0
    for pid, reader in readers:
        total += int.from_bytes(os.read(reader, 4), "big")
        os.close(reader)
        os.waitpid(pid, 0)
    assert total == len(names)


def test_old_windows_are_deleted(directory: int, tmp_path: Path) -> None:
    guard = DirectoryGuard(directory)
    for step in range(20):
        now_s = 1000.0 + 20.0 * step
        assert guard.first_use(os.urandom(12), now_s, now_s)
    assert len(list(tmp_path.iterdir())) <= 3


def test_a_full_window_refuses(directory: int) -> None:
    guard = DirectoryGuard(directory, max_per_window=3)
    assert [guard.first_use(os.urandom(12), 1000.0, 1000.0) for _ in range(5)] == [True, True, True, False, False]
    assert guard.first_use(os.urandom(12), 1020.0, 1020.0)


def test_an_error_refuses(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    os.close(fd)
    assert not DirectoryGuard(fd).first_use(b"a" * 12, 1000.0, 1000.0)


def test_the_context_names_node_and_limits() -> None:
    here = early_data_context(7, (100, 65_536))
    assert here == early_data_context(7, (100, 65_536))
    assert here not in (early_data_context(8, (100, 65_536)), early_data_context(7, (100, 1024)))
    assert all(early_data_context(node, ()) != bytes(4) for node in range(100))
