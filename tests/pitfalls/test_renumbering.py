"""When a socket of a reuseport group closes, Linux moves the group's last one into its place: selection by index then
sends every live connection of that one elsewhere (moq#2960). velocity-edge selects by a key and keeps sockets open.
"""

from pathlib import Path

import pytest

from tests.support.loopback_group import Group, bound, group, known, new

pytestmark = [pytest.mark.root, pytest.mark.slow]

WORKERS = {0x0101: 0, 0x0102: 1, 0x0203: 2, 0x0304: 3}


def one_socket_closes(g: Group) -> dict[int, dict[int, int]]:
    """Return worker id -> where its packets arrived, after the socket of slot 1 has closed."""
    for worker_id, slot in WORKERS.items():
        g.steering.lend(worker_id, slot, 0)
    g.steering.accept([0x0101])
    for worker_id, slot in WORKERS.items():
        assert g.where(known(worker_id)) == {slot: 20}
    g.members[1].close()
    return {worker_id: dict(g.where(known(worker_id))) for worker_id, slot in WORKERS.items() if slot != 1}


def test_other_workers_keep_their_packets_when_a_socket_closes(cache_dir: Path) -> None:
    with group(4, cache_dir) as g:
        assert one_socket_closes(g) == {0x0101: {0: 20}, 0x0203: {2: 20}, 0x0304: {3: 20}}


def test_selection_by_index_sends_packets_to_the_wrong_socket(cache_dir: Path) -> None:
    """The naive version, which is tier A: it has no other way, so supervisor and workers hold all sockets."""
    with group(4, cache_dir, "socket-classic") as g:
        assert one_socket_closes(g)[0x0304] != {3: 20}


@pytest.mark.parametrize("steered", [True, False])
def test_foreign_socket_in_the_group_gets_no_packet(cache_dir: Path, steered: bool) -> None:
    """Another process of the same user binds the port with SO_REUSEPORT; without our program it takes its share."""
    with group(4, cache_dir) as g:
        for worker_id, slot in WORKERS.items():
            g.steering.lend(worker_id, slot, 0)
        g.steering.accept(list(WORKERS))
        if not steered:
            g.detach()
        joined = bound(g.port)
        counts = g.where([*new(200), *known(0x0203, 100)], joined)
        joined.close()
        assert (counts[-1] == 0) == steered
        if steered:
            assert counts.total() == 300
            assert counts[2] >= 100


@pytest.mark.parametrize("adopt", [True, False])
def test_tier_a_successor_attaches_after_all_workers_returned(cache_dir: Path, adopt: bool) -> None:
    """Its program is a table of constants; attached before all ids are lent again (naively), it misdirects."""
    with group(4, cache_dir, "socket-classic") as g:
        for worker_id, slot in WORKERS.items():
            g.steering.lend(worker_id, slot, 0)
        g.steering.accept([0x0203])
        g.steering.release()
        g.steering = g.open(adopt=adopt)
        g.steering.lend(0x0101, 0, 0)
        got = {worker_id: dict(g.where(known(worker_id))) for worker_id in WORKERS}
        assert (got == {worker_id: {slot: 20} for worker_id, slot in WORKERS.items()}) == adopt
        assert (set(g.where(new(50))) == {2}) == adopt
        for worker_id, slot in list(WORKERS.items())[1:]:
            g.steering.lend(worker_id, slot, 0)
        g.steering.accept([0x0304])
        assert set(g.where(new(50))) == {3}
