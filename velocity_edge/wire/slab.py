"""The counters of one slot in shared memory: one writer (the worker in that slot), one reader (the supervisor).

A slab is an array of u64 cells that includes their names, so that any version reads any slab: the supervisor and the
worker of a slot may be of different versions (docs/adr/0007-versions-side-by-side.md).

    u64 magic | u64 number of cells n, length of names << 32 | n cells | names, separated by spaces

Counters continue from the values of the earlier worker in the same slot, so that a crash never makes a sum decrease;
gauges start at zero. There are no locks: each cell is written by one process, with one aligned 8-byte store. A writer
skips counters without a cell: its supervisor is older and does not read them.

The memory is a memfd: it lives as long as any process holds the descriptor, and so survives the death of either. Its
size is sealed, because a worker that could shrink it could end its supervisor with SIGBUS.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from velocity_edge.wire.counters import CELLS, GAUGES, TOTALS

_MAGIC: Final = int.from_bytes(b"vel-slab", "little")
_HEAD_CELLS: Final = 2
#: Enough for a thousand counters and their names; anything larger is not a slab.
_MAX_BYTES: Final = 65_536
_MAX: Final = (1 << 64) - 1


class SlabMismatch(Exception):
    """Not a slab, or one from before slabs named their cells."""


def create(name: str, names: tuple[str, ...] = CELLS) -> int:
    """Return the descriptor of a new slab, all zero. *name* shows in /proc/PID/maps."""
    text = " ".join(names).encode()
    size = 8 * (_HEAD_CELLS + len(names)) + len(text)
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    head = _MAGIC.to_bytes(8, "little") + (len(names) | len(text) << 32).to_bytes(8, "little")
    os.pwrite(fd, head, 0)
    os.pwrite(fd, text, size - len(text))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


class Slab:
    """A mapped slab. *fd* may be closed afterwards."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        if not 8 * _HEAD_CELLS <= size <= _MAX_BYTES:
            raise SlabMismatch(f"{size} bytes")
        self._memory = mmap.mmap(fd, size)
        magic, sizes = (int.from_bytes(self._memory[at : at + 8], "little") for at in (0, 8))
        count, text_bytes = sizes & 0xFFFFFFFF, sizes >> 32
        names = self._memory[size - text_bytes :].decode("ascii", "replace").split() if text_bytes <= size else []
        if magic != _MAGIC or size != 8 * (_HEAD_CELLS + count) + text_bytes or len(names) != count:
            self._memory.close()
            raise SlabMismatch("its cells have no names")
        self._index = {name: _HEAD_CELLS + index for index, name in enumerate(names)}
        end = 8 * (_HEAD_CELLS + count)
        self._view = memoryview(self._memory)
        self._cells = self._view[:end].cast("Q")

    @property
    def current(self) -> bool:
        """Whether it has exactly the cells of this version."""
        return tuple(self._index) == CELLS

    def add(self, counts: Mapping[str, int]) -> None:
        """Add to counters; for the writer."""
        for name, value in counts.items():
            index = self._index.get(name)
            if index is not None:
                self._cells[index] = (self._cells[index] + value) & _MAX

    def set(self, gauges: Mapping[str, int]) -> None:
        """Set gauges; for the writer. A negative value becomes zero."""
        for name, value in gauges.items():
            index = self._index.get(name)
            if index is not None:
                self._cells[index] = max(0, value) & _MAX

    def ticker(self, name: str) -> Callable[[], None]:
        """Return a function that increments the gauge *name*; it does nothing when there is no such cell."""
        index = self._index.get(name)
        if index is None:
            return lambda: None
        cells = self._cells

        def tick() -> None:
            cells[index] += 1

        return tick

    def value(self, name: str) -> int | None:
        """Return one cell; None when there is no such cell, as its writer is older."""
        index = self._index.get(name)
        return None if index is None else self._cells[index]

    def take_over(self) -> None:
        """Set the gauges to zero, for a new writer or after the death of one."""
        self.set(dict.fromkeys(GAUGES, 0))

    def read(self) -> dict[str, int]:
        """Return every cell by name; cells of this version that the slab does not have are 0."""
        return dict.fromkeys(CELLS, 0) | {name: self._cells[index] for name, index in self._index.items()}

    def counts(self) -> dict[str, int]:
        """Return every cell but the gauges of this version, for a slab that continues from here."""
        return {name: value for name, value in self.read().items() if name not in GAUGES}

    def close(self) -> None:
        """Unmap."""
        self._cells.release()
        self._view.release()
        self._memory.close()


def total(slabs: Iterable[Slab]) -> dict[str, int]:
    """Return the sum over *slabs* of every counter, and of the gauges that can be summed (all but the worker's own)."""
    result = dict.fromkeys((*TOTALS, "connections", "half_open", "streams", "rss_bytes"), 0)
    for slab in slabs:
        cells = slab.read()
        for name in result:
            result[name] += cells[name]
    return result
