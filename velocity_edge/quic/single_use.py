"""Which NEW_TOKEN tokens were used, in memory that all workers of a node share (RFC 9000 section 8.1.4).

    magic 8 | since_ms 8 | epoch 8 | epoch 8 | ... | bits of the even epochs | bits of the odd epochs

One bit per token, chosen by its nonce, which is ours and random. An epoch is as long as a token lives, by the time at
which the token was issued, so that two epochs hold all tokens that are valid; the first token of a later epoch clears
the bits of the one before the last. Two tokens may have the same bit: then the second counts as used, which costs its
client a Retry when the worker is busy, and nothing otherwise.

A lost memory fails closed: what was issued before `since_ms`, when this memory was made, counts as used. A token that
another node with the same keys issued is valid once on each of them.

Several processes write. A bit is tested and set under a record lock on its byte (fcntl), which the kernel releases when
its process ends. No process waits for a lock: a token whose byte is locked by another process counts as used.

The memory is a memfd and lives as long as a process has it open: across restarts of workers and of the supervisor. Its
size is sealed, as a slab's (velocity_edge/wire/slab.py). Pages without a used token take no memory.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from velocity_edge.quic.tokens import CLOCK_SKEW_S, NEW_TOKEN_LIFETIME_S

_MAGIC: Final = int.from_bytes(b"vel-once", "little")
_HEAD_BYTES: Final = mmap.PAGESIZE
_SINCE, _EPOCHS = 1, 2
#: Of one epoch. 134 million bits: after a million tokens in a day a new one counts as used with 0.7 %, after ten
#: million with 7 %. Sixteen times as much would be 1 % of the memory of a machine that has so many clients.
EPOCH_BYTES: Final = 16 * 1024 * 1024


class NotShared(Exception):
    """No memory of this kind: a descriptor of something else."""


def create(now_s: float, epoch_bytes: int = EPOCH_BYTES) -> int:
    """Return the descriptor of new memory. What was issued before *now_s* (wall time) counts as used."""
    fd = os.memfd_create("velocity-used-tokens", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _HEAD_BYTES + 2 * epoch_bytes)
    os.pwrite(fd, _MAGIC.to_bytes(8, "little") + int(now_s * 1000).to_bytes(8, "little"), 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def is_ours(fd: int) -> bool:
    """Whether *fd* is memory of this kind."""
    try:
        return os.pread(fd, 8, 0) == _MAGIC.to_bytes(8, "little")
    except OSError:
        return False


class UsedTokens:
    """The memory, mapped: a `replay.ReplayGuard`. It owns the descriptor. Raises `NotShared`."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        self._epoch_bytes = (size - _HEAD_BYTES) // 2
        whole = self._epoch_bytes > 0 and self._epoch_bytes % mmap.PAGESIZE == 0
        if not is_ours(fd) or not whole or size != _HEAD_BYTES + 2 * self._epoch_bytes:
            raise NotShared(f"{size} bytes")
        self._fd = fd
        self._memory = mmap.mmap(fd, size)
        self._view = memoryview(self._memory)
        self._head = self._view[:_HEAD_BYTES].cast("Q")

    @classmethod
    def private(cls, now_s: float) -> UsedTokens:
        """Return memory of this process alone."""
        return cls(create(now_s))

    def first_use(self, name: bytes, issued_s: float, now_s: float) -> bool:
        """Whether this token was never used; False as well when that cannot be known. Counts as its use.

        *name* is its nonce (12 bytes), *issued_s* and *now_s* are wall time.
        """
        if self._head[_SINCE] > int((now_s + CLOCK_SKEW_S) * 1000):
            self._begin_anew(now_s)
        if int(issued_s * 1000) < self._head[_SINCE]:
            return False
        epoch = int(issued_s // NEW_TOKEN_LIFETIME_S)
        if self._head[_EPOCHS + epoch % 2] != epoch and not self._turn_to(epoch, now_s):
            return False
        number = int.from_bytes(name, "big") % (8 * self._epoch_bytes)
        at, bit = _HEAD_BYTES + epoch % 2 * self._epoch_bytes + number // 8, 1 << number % 8
        with self._locked(at) as mine:
            if not mine or self._memory[at] & bit:
                return False
            self._memory[at] |= bit
        return True

    def _turn_to(self, epoch: int, now_s: float) -> bool:
        """Replace the bits of an earlier epoch by those of *epoch*. False: they are of a later one, or locked."""
        cell = _EPOCHS + epoch % 2
        with self._locked(0) as mine:
            if not mine:
                return False
            there = self._head[cell]
            # An epoch that lies in the future was begun while the clock was ahead.
            if epoch < there and there * NEW_TOKEN_LIFETIME_S <= now_s + CLOCK_SKEW_S:
                return False
            if there != epoch:  # another process may have done it meanwhile
                self._clear(cell)
                self._head[cell] = epoch
        return True

    def _begin_anew(self, now_s: float) -> None:
        """Start over: the clock was ahead when this memory was made, and the times in it mean nothing."""
        with self._locked(0) as mine:
            if mine and self._head[_SINCE] > int(now_s * 1000):
                for cell in (_EPOCHS, _EPOCHS + 1):
                    self._clear(cell)
                self._head[_SINCE] = int(now_s * 1000)

    def _clear(self, cell: int) -> None:
        self._head[cell] = 0
        start = _HEAD_BYTES + (cell - _EPOCHS) * self._epoch_bytes
        self._memory.madvise(mmap.MADV_REMOVE, start, self._epoch_bytes)

    @contextmanager
    def _locked(self, at: int) -> Iterator[bool]:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, at)

    def close(self) -> None:
        """Unmap, and close the descriptor. Idempotent."""
        if self._fd >= 0:
            self._head.release()
            self._view.release()
            self._memory.close()
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()
