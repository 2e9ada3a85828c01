"""The type of a packet does not tell who chose its ID: after the first flight a client's Initials carry ours,
and sending all Initials to "an accepting worker" splits handshakes. A stray, on the other hand, looks like a
packet of a closed connection: nginx answered it with a reset that ended a live connection (1.29.6), and revealed the
reset token to the client that steered the packet there.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.loopback_group import group, new
from tests.support.packets import HANDSHAKE, INITIAL, ZERO_RTT, long, short
from tests.support.traffic import CODEC
from velocity_edge.quic import demux
from velocity_edge.wire.messages import Roster
from workers.process.worker import unborn


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["socket", "socket-classic"])
@pytest.mark.parametrize("kind", [INITIAL, ZERO_RTT, HANDSHAKE])
def test_initial_with_an_issued_id_goes_to_its_worker(cache_dir: Path, mode: str, kind: int) -> None:
    """The naive version: another worker accepts, and gets the Initials with ids that clients chose."""
    with group(3, cache_dir, mode) as g:
        for slot in range(3):
            g.steering.lend(0x0100 + slot, slot, 0)
        g.steering.accept([0x0100])
        assert g.where([long(kind, CODEC.issue(1, 0x0102)) for _ in range(30)]) == {2: 30}
        assert g.where(new(30)) == {0: 30}


HERE = demux.Whereabouts(CODEC, 1, 7, frozenset((7, 8)))
VICTIM = CODEC.issue(1, 8)


@pytest.mark.parametrize("length", [22, 43, 60, 1200])
def test_live_connection_is_never_reset(length: int) -> None:
    packets = [short(VICTIM, length), *(long(kind, VICTIM) for kind in (INITIAL, ZERO_RTT, HANDSHAKE))]
    for packet in packets:
        assert demux.decide(packet, (), HERE, forwarded=False) == demux.HandOver(8)
        assert isinstance(demux.decide(packet, (), HERE, forwarded=True), demux.Drop)


def test_without_the_roster_a_live_connection_is_reset() -> None:
    """The naive version: a connection of another worker counts as closed."""
    naive = replace(HERE, live_worker_ids=frozenset((7,)))
    assert isinstance(demux.decide(short(VICTIM), (), naive, forwarded=False), demux.Reset)


@pytest.mark.parametrize("next_id", [8, 0xFFFF, 1])
def test_worker_with_an_old_roster_does_not_reset_a_new_worker(next_id: int) -> None:
    """A worker whose loop was blocked gets a stray before it reads the newest roster. Closed ones are reset."""
    roster = Roster({7: 0}, unborn_from=next_id)
    newborn = CODEC.issue(1, next_id % 0xFFFF + 1)  # the second one in turn
    late = replace(HERE, live_worker_ids=frozenset(roster.workers) | unborn(roster))
    assert isinstance(demux.decide(short(newborn), (), late, forwarded=False), demux.HandOver), "and lost there"
    assert isinstance(demux.decide(short(CODEC.issue(1, 40_000)), (), late, forwarded=False), demux.Reset)
    naive = replace(HERE, live_worker_ids=frozenset(roster.workers))
    assert isinstance(demux.decide(short(newborn), (), naive, forwarded=False), demux.Reset)


def test_roster_without_start_times_names_no_new_worker() -> None:
    assert unborn(Roster({7: 0})) == frozenset()
