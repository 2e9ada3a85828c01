"""The counters of one slot in shared memory: one writer (the worker in that slot), one reader (the supervisor).

An array of u64 cells named by counters.CELLS behind a header that names the layout. Counters go on from where a
predecessor in the same slot left them, so that a crash never makes a sum go backwards; gauges start at zero. Nothing is
locked: a cell is written by one process only, with one aligned 8-byte store.

The memory is a memfd: it lives as long as somebody holds the descriptor, and so survives both of them alone.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterable, Mapping
from typing import Final

from velocity_edge.counters import CELLS, COUNTERS, GAUGES

#: Changes with the names: a slab of another version is never misread, it is replaced (`SlabMismatch`).
LAYOUT: Final = zlib.crc32(" ".join(CELLS).encode()) | len(CELLS) << 32
_INDEX: Final = {name: 1 + index for index, name in enumerate(CELLS)}
_SIZE_BYTES: Final = 8 * (1 + len(CELLS))
_MAX: Final = (1 << 64) - 1


class SlabMismatch(Exception):
    """A slab of another version of velocity-edge, or no slab at all."""


def create(name: str) -> int:
    """Return the descriptor of a new slab, all zero. *name* shows in /proc/PID/maps."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(fd, _SIZE_BYTES)
    with mmap.mmap(fd, _SIZE_BYTES) as memory, memoryview(memory) as view, view.cast("Q") as cells:
        cells[0] = LAYOUT
    return fd


class Slab:
    """A mapped slab. Closing *fd* afterwards is fine."""

    def __init__(self, fd: int) -> None:
        if os.fstat(fd).st_size != _SIZE_BYTES:
            raise SlabMismatch(f"{os.fstat(fd).st_size} bytes, not {_SIZE_BYTES}")
        self._memory = mmap.mmap(fd, _SIZE_BYTES)
        self._cells = memoryview(self._memory).cast("Q")
        if self._cells[0] != LAYOUT:
            self.close()
            raise SlabMismatch("other names of counters")

    def add(self, counts: Mapping[str, int]) -> None:
        """Add to counters (the writer's part)."""
        for name, value in counts.items():
            index = _INDEX[name]
            self._cells[index] = (self._cells[index] + value) & _MAX

    def set(self, gauges: Mapping[str, int]) -> None:
        """Set gauges (the writer's part); a negative value is zero."""
        for name, value in gauges.items():
            self._cells[_INDEX[name]] = max(0, value) & _MAX

    def take_over(self) -> None:
        """Set the gauges to zero: a new writer, or the death of one."""
        self.set(dict.fromkeys(GAUGES, 0))

    def read(self) -> dict[str, int]:
        """Return every cell by name."""
        return {name: self._cells[index] for name, index in _INDEX.items()}

    def close(self) -> None:
        """Unmap."""
        self._cells.release()
        self._memory.close()


def total(slabs: Iterable[Slab]) -> dict[str, int]:
    """Return the sum over *slabs* of every counter, and of the gauges that can be summed (all but the worker's own)."""
    result = dict.fromkeys((*COUNTERS, "connections", "half_open", "streams", "rss_bytes"), 0)
    for slab in slabs:
        cells = slab.read()
        for name in result:
            result[name] += cells[name]
    return result
