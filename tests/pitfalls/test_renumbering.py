"""When a socket of a reuseport group closes, Linux moves the group's last one into the hole: who selects by index then
sends every live connection of that one elsewhere (moq#2960). We select by a key of our own, and keep sockets open.
"""

from pathlib import Path

import pytest

from tests.support.loopback_group import Group, bound, group, known, new

pytestmark = [pytest.mark.root, pytest.mark.slow]

WORKERS = {0x0101: 0, 0x0102: 1, 0x0203: 2, 0x0304: 3}


def one_socket_closes(g: Group) -> dict[int, dict[int, int]]:
    """Return worker id -> what its packets came to, after the socket of slot 1 has closed."""
    for worker_id, slot in WORKERS.items():
        g.steering.lend(worker_id, slot, 0)
    g.steering.accept([0x0101])
    for worker_id, slot in WORKERS.items():
        assert g.where(known(worker_id)) == {slot: 20}
    g.members[1].close()
    return {worker_id: dict(g.where(known(worker_id))) for worker_id, slot in WORKERS.items() if slot != 1}


def test_the_others_keep_their_packets(cache_dir: Path) -> None:
    with group(4, cache_dir) as g:
        assert one_socket_closes(g) == {0x0101: {0: 20}, 0x0203: {2: 20}, 0x0304: {3: 20}}


def test_by_index_they_do_not(cache_dir: Path) -> None:
    """The naive version, which is tier A: it has no other way, so supervisor and workers hold all sockets."""
    with group(4, cache_dir, "socket-classic") as g:
        assert one_socket_closes(g)[0x0304] != {3: 20}


@pytest.mark.parametrize("steered", [True, False])
def test_who_joins_the_group_gets_nothing(cache_dir: Path, steered: bool) -> None:
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
def test_in_tier_a_a_successor_waits_until_it_knows_everybody(cache_dir: Path, adopt: bool) -> None:
    """Its program is a table of constants; attached before all are lent again (the naive version), it leads astray."""
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
