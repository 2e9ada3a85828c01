"""BPF maps of nginx and others fill up with every reload, until the fiftieth cannot register its sockets.

Nothing grows with restarts here: numbers of worker ids, sockets, pins in bpffs and descriptors are constant, and the
pin map evicts its oldest entry instead of refusing the newest.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bpf import abi, kernel, pins
from tests.support.loopback_group import Group, group, new

pytestmark = [pytest.mark.root, pytest.mark.slow]

RESTARTS = 200


def restarts(g: Group, forget: Callable[[int], None]) -> tuple[int, int, int]:
    """Replace workers, and supervisors as well; return how many ids, pins and descriptors there are then."""
    for number in range(RESTARTS):
        worker_id, slot = 1 + number, number % 4
        g.steering.lend(worker_id, slot, 0)
        g.steering.accept(list(range(max(1, worker_id - 1), worker_id + 1)))
        if worker_id > 2:
            forget(worker_id - 2)
        if number % 20 == 19:
            g.succeed()
    names = pins.Pins(g.instance).names()
    return len(g.steering.lent()), len(names), len(os.listdir("/proc/self/fd"))


def test_restarts_and_adoptions_grow_no_map(cache_dir: Path) -> None:
    with group(4, cache_dir) as g:
        g.steering.lend(1, 0, 0)
        g.steering.accept([1])
        g.succeed()
        before = len(pins.Pins(g.instance).names()), len(os.listdir("/proc/self/fd"))
        assert restarts(g, lambda worker_id: g.steering.forget(worker_id)) == (2, *before)
        assert g.where(new(40)).keys() == {(RESTARTS - 2) % 4, (RESTARTS - 1) % 4}


def test_check_detects_a_growing_map(cache_dir: Path) -> None:
    """The naive version: lent ids are never taken back."""
    with group(4, cache_dir) as g:
        assert restarts(g, lambda worker_id: None)[0] == RESTARTS


def fill(spec: kernel.MapSpec) -> None:
    fd = kernel.create_map(replace(spec, entries=1024))
    try:
        for number in range(8 * 1024):
            kernel.update(fd, number.to_bytes(spec.key_bytes, "little"), bytes(spec.value_bytes))
    finally:
        os.close(fd)


def test_pin_map_evicts_the_oldest_handshake() -> None:
    spec = next(spec for spec in abi.MAPS if spec.name == "pins")
    fill(spec)
    naive = replace(spec, type=1)  # type: ignore[arg-type]  # BPF_MAP_TYPE_HASH
    with pytest.raises(OSError, match=os.strerror(errno.E2BIG)):
        fill(naive)
