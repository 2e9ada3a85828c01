"""Counters never decrease when a worker is replaced, gauges start at zero, and a slab of any version can be read."""

import mmap
import os

import pytest

from velocity_edge.wire.counters import CELLS, GAUGES
from velocity_edge.wire.slab import Slab, SlabMismatch, create, total
from workers.process.vitals import Tally


def test_counters_continue_in_the_next_worker() -> None:
    fd = create("slab")
    first, second, reader = Slab(fd), Slab(fd), Slab(fd)
    first.add({"requests": 2})
    first.set({"connections": 7})
    second.take_over()
    second.add({"requests": 3})
    assert reader.read()["requests"] == 5
    assert reader.read()["connections"] == 0
    os.close(fd)


def test_the_total_sums_counters_and_some_gauges() -> None:
    fds = [create("a"), create("b")]
    slabs = [Slab(fd) for fd in fds]
    for n, slab in enumerate(slabs, 1):
        slab.add({"requests": n, "verdict_reset": 10 * n})
        slab.set({"connections": n, "worker_id": 9, "rss_bytes": -5})
    result = total(slabs)
    assert (result["requests"], result["verdict_reset"], result["connections"], result["rss_bytes"]) == (3, 30, 3, 0)
    assert "worker_id" not in result
    for fd in fds:
        os.close(fd)


def test_a_worker_publishes_all_its_counters() -> None:
    slab = Slab(create("tally"))
    counts = {name: n for n, name in enumerate(CELLS, 1) if name not in GAUGES}
    tally = Tally(slab, 7)
    tally.update(counts, {})
    tally.update({name: 2 * n for name, n in counts.items()}, {})
    assert {name: value for name, value in slab.read().items() if name in counts} == {
        name: 2 * n for name, n in counts.items()
    }
    assert {name: value for name, value in total([slab]).items() if name in counts} == {
        name: 2 * n for name, n in counts.items()
    }


def test_a_slab_of_another_version_is_written_and_read_by_name() -> None:
    names = ("from_the_future", *(name for name in reversed(CELLS) if name != "glitches"))
    fd = create("other", names)
    theirs, ours = Slab(fd), Slab(fd)
    theirs.add({"from_the_future": 9, "requests": 2})
    ours.add({"requests": 1, "glitches": 5})
    ours.set({"connections": 4})
    assert not ours.current
    assert Slab(create("same")).current
    seen = ours.read()
    assert (seen["requests"], seen["glitches"], seen["connections"], seen["from_the_future"]) == (3, 0, 4, 9)
    assert total([theirs, Slab(create("same"))])["requests"] == 3
    os.close(fd)


def test_a_worker_cannot_shrink_the_slab() -> None:
    fd = create("sealed")
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)


def test_memory_that_is_not_a_slab_is_refused() -> None:
    fd = os.memfd_create("other")
    with pytest.raises(SlabMismatch):
        Slab(fd)
    os.ftruncate(fd, os.fstat(good := create("good")).st_size)
    with pytest.raises(SlabMismatch):
        Slab(fd)
    with mmap.mmap(good, 0) as memory:
        memory[8:12] = b"\xff\xff\xff\x7f"  # more cells than there are
    with pytest.raises(SlabMismatch):
        Slab(good)
    os.close(fd)
    os.close(good)
