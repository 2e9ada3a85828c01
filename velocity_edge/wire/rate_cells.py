"""Memory in which all workers of a node count for rate limits: one table of entries, found by key. What is counted, and
how, is decided by its user (workers/middleware/quota.py): an entry has `STATE_WORDS` words for it.

    magic 8 | sets 8 | secret 16 | ... page | sets of WAYS entries:  tag 8 | until_ms 40 bits, weight 24 bits | state

The key's keyed hash (BLAKE2b, secret of the node) chooses the set and is the tag, so nobody outside knows which keys
share a set. The table never grows. An entry whose time is over (`until_ms`) means the same as none, and its place is
taken first; otherwise a new key takes the place of the lightest entry of its set: whoever used least of its limit is
forgotten first. So a flood of new keys replaces its own entries, and to displace a client that is near its limit each
of WAYS keys that happen to be in its set must have used as much.

Several processes write. A set is changed under a record lock (fcntl), which the kernel releases when its process ends.
No process waits long for one that does not run meanwhile: after `_TRIES` attempts it goes on without the lock
(`contended`). Therefore every writer compares the set with what it decided upon just before it writes, and decides
again when it was changed: only a writer that is interrupted between these two steps can lose counts of others.

Times are CLOCK_MONOTONIC, which all processes of a machine share. The memory is a memfd and lives as long as a process
has it open: across restarts of workers and of the supervisor. Its size is sealed, as a slab's. Pages without an entry
take no memory.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable
from hashlib import blake2b
from struct import Struct
from typing import Final

from velocity_edge.wire.rate_entry import EMPTY, MAX_WEIGHT, STATE_WORDS, Answer, Change, State

_MAGIC: Final = int.from_bytes(b"vel-rate", "little")
_HEAD: Final = Struct("<QQ16s")
_HEAD_BYTES: Final = mmap.PAGESIZE
#: Entries of one set: a new key looks at this many.
WAYS: Final = 8
_ENTRY: Final = Struct(f"<{2 + STATE_WORDS}Q")
_SET_BYTES: Final = WAYS * _ENTRY.size
_TAGS: Final = Struct("<" + f"Q{_ENTRY.size - 8}x" * WAYS)
_METAS: Final = Struct("<" + f"8xQ{_ENTRY.size - 16}x" * WAYS)
#: 65,536 entries, 8 MiB: with a window of a minute, all of a thousand new clients per second.
SETS: Final = 8192
#: An attempt takes 1 us, more when another process wants the CPU. A holder that runs needs 5 us.
_TRIES: Final = 100
_SPINS: Final = 20
#: Decisions of one change. More than one is needed only without the lock.
_DECISIONS: Final = 4


class NotShared(Exception):
    """No memory of this kind: a descriptor of something else."""


def create(sets: int = SETS) -> int:
    """Return the descriptor of new, empty memory."""
    fd = os.memfd_create("velocity-rates", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _HEAD_BYTES + sets * _SET_BYTES)
    os.pwrite(fd, _HEAD.pack(_MAGIC, sets, os.urandom(16)), 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def is_ours(fd: int) -> bool:
    """Whether *fd* is memory of this kind."""
    try:
        return os.pread(fd, 8, 0) == _MAGIC.to_bytes(8, "little")
    except OSError:
        return False


class RateCells:
    """The memory, mapped. It owns the descriptor. Raises `NotShared`."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        if not is_ours(fd) or size < _HEAD_BYTES:
            raise NotShared(f"{size} bytes")
        _, self._sets, self._secret = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
        if not self._sets or size != _HEAD_BYTES + self._sets * _SET_BYTES:
            raise NotShared(f"{size} bytes")
        self._fd = fd
        self._close = os.close  # when the interpreter ends, there is no `os` any more
        self._memory = mmap.mmap(fd, size)
        #: Changes without the lock, because its holder did not run.
        self.contended = 0
        #: Entries that were replaced while they still meant something: the table is too small for so many clients.
        self.evicted = 0

    @classmethod
    def private(cls) -> RateCells:
        """Return memory of this process alone."""
        return cls(create())

    def change(self, key: bytes, now_ms: int, decide: Callable[[State], Change[Answer]]) -> Answer:
        """Have *decide* change the entry of *key*; return its answer. *now_ms*: monotonic."""
        digest = blake2b(key, digest_size=16, key=self._secret).digest()
        start = _HEAD_BYTES + int.from_bytes(digest[:8], "little") % self._sets * _SET_BYTES
        tag = int.from_bytes(digest[8:], "little") or 1
        locked = self._lock(start)
        end = start + _SET_BYTES
        memory = self._memory
        try:
            for again in reversed(range(_DECISIONS)):
                entries = memory[start:end]
                place, state = _find(entries, tag, now_ms)
                answer, changed = decide(state)
                if changed is None:
                    break
                until_ms, weight, words = changed
                if place < 0:
                    place = self._place(entries, now_ms)
                meta = until_ms << 24 | min(weight, MAX_WEIGHT)
                if memory[start:end] == entries or not again:
                    _ENTRY.pack_into(memory, start + place * _ENTRY.size, tag, meta, *words)
                    break
        finally:
            if locked:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, start)
        return answer

    def _place(self, entries: bytes, now_ms: int) -> int:
        metas = _METAS.unpack_from(entries)
        place = min(range(WAYS), key=lambda way: metas[way] & MAX_WEIGHT if metas[way] >> 24 > now_ms else -1)
        if metas[place] >> 24 > now_ms:
            self.evicted += 1
        return place

    def _lock(self, at: int) -> bool:
        for attempt in range(_TRIES):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
            except OSError:
                if attempt > _SPINS:
                    os.sched_yield()
                continue
            return True
        self.contended += 1
        return False

    def close(self) -> None:
        """Unmap, and close the descriptor. Idempotent."""
        if self._fd >= 0:
            self._memory.close()
            self._close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def _find(entries: bytes, tag: int, now_ms: int) -> tuple[int, State]:
    """Return the place of the entry in its set and its state; -1 when there is none."""
    tags = _TAGS.unpack_from(entries)
    if tag not in tags:
        return -1, EMPTY
    place = tags.index(tag)
    _, meta, *state = _ENTRY.unpack_from(entries, place * _ENTRY.size)
    return place, state if meta >> 24 > now_ms else EMPTY
