"""The native engine gives the results of the Python files that document it: connection IDs, resets, demux, handover."""

from __future__ import annotations

import os
import random

import pytest

from tests.support.engine_driver import NODE_ID, START_NS, World
from velocity_edge.quic import demux, handover, reset
from velocity_edge.quic.datagrams import EngineKeys, Ignore, Initial, Train
from velocity_edge.quic.demux import Deliver, Drop, HandOver, NegotiateVersion, Open, Reset

native = pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

PEER = (b"\xc6\x33\x64\x07", 5555)
LIVE = frozenset((7, 9))
#: The verdict of each decision of demux.py, when admission returns `Ignore("verdict_dropped_not_accepting")`.
EXPECTED = {
    HandOver: "handed_over",
    NegotiateVersion: "version_negotiated",
    Open: "dropped_not_accepting",
    Reset: "reset",
    Deliver: "delivered",
}


def _world() -> World:
    w = World("native", live=LIVE)
    w.hooks.admit_with = lambda initial: Ignore("verdict_dropped_not_accepting")
    return w


def _here(w: World) -> demux.Whereabouts:
    return demux.Whereabouts(codec=w.codec, node_id=NODE_ID, worker_id=7, live_worker_ids=LIVE)


def _seed(w: World, dice: random.Random) -> bytes:
    """One datagram, of any kind that demux.py distinguishes."""
    cid = dice.choice(
        [
            w.codec.issue(NODE_ID, dice.choice((7, 9, 12))),
            w.codec.issue(NODE_ID + 1, 7),
            dice.randbytes(dice.choice((0, 4, 7, 8, 20, 21))),
        ]
    )
    length = dice.choice((20, 21, 22, 40, 41, 42, 43, 44, 45, 60, 1199, *(1200,) * 6, 1201))
    if dice.random() < 0.4:
        return (bytes((dice.choice((0x40, 0x00, 0x5F)),)) + cid + dice.randbytes(length))[:length]
    version = dice.choice((1, 1, 1, 1, 0, 2, 0x6B3343CF, 0x1A2A3A4A))
    scid = dice.randbytes(dice.choice((0, 8, 20, 21)))
    head = bytes((dice.choice((0xC0, 0xC0, 0xC3, 0xC3, 0xD0, 0xE0, 0xF0, 0x80)),)) + version.to_bytes(4, "big")
    head += bytes((len(cid),)) + cid + bytes((len(scid),)) + scid
    token = dice.randbytes(dice.choice((0, 0, 20)))
    rest = length - len(head) - 1 - len(token) - 2
    head += (
        bytes((len(token),))
        + token
        + (0x4000 | max(0, rest + dice.choice((0, 0, 0, 5, -9))) & 0x3FFF).to_bytes(2, "big")
    )
    return (head + dice.randbytes(length))[:length]


@pytest.mark.parametrize("forwarded", [False, True])
def test_verdicts_equal_those_of_demux_py(forwarded: bool) -> None:
    dice = random.Random(20)
    w = _world()
    here = _here(w)
    for number in range(4000):
        datagram = bytearray(_seed(w, dice))
        if datagram and dice.random() < 0.3:
            datagram[dice.randrange(len(datagram))] ^= 1 << dice.randrange(8)
        before = w.verdicts()
        w.now_ns += 20_000_000  # 50 per second: below the limits for resets and Version Negotiation
        w.inject(PEER, bytes(datagram), received_ns=START_NS if forwarded else 0)
        [changed] = [name for name, count in w.verdicts().items() if count != before.get(name, 0)]
        decision = demux.decide(bytes(datagram), (), here, forwarded=forwarded)
        expected = decision.verdict.removeprefix("verdict_") if isinstance(decision, Drop) else EXPECTED[type(decision)]
        assert changed == expected, (number, bytes(datagram[:40]).hex(), len(datagram), decision)
    assert len(w.verdicts()) >= (6 if forwarded else 8), w.verdicts()
    w.close()


def test_initial_given_to_admission_equals_that_of_demux_py() -> None:
    dice = random.Random(3)
    w = _world()
    here = _here(w)
    seen = 0
    for _ in range(3000):
        datagram = _seed(w, dice)
        decision = demux.decide(datagram, (), here, forwarded=False)
        w.hooks.initials.clear()
        w.inject(PEER, datagram)
        if isinstance(decision, Open):
            seen += 1
            [initial] = w.hooks.initials
            expected = Initial(decision.version, decision.dcid, decision.scid, decision.token, PEER, False, 0, 0)
            assert initial == expected
        else:
            assert not w.hooks.initials
    assert seen > 50


@pytest.mark.parametrize("peer", [PEER, (bytes(range(16)), 70)])
def test_strays_have_the_encoding_of_handover_py(peer: tuple[bytes, int]) -> None:
    w = _world()
    datagram = b"\x41" + w.codec.issue(NODE_ID, 9) + os.urandom(50)
    local = (b"\x7f" * len(peer[0]), 443)
    w.give(Train(datagram, len(datagram), peer, local, 3, 2))
    assert w.strays == [
        (9, handover.encode(datagram, Train(datagram, len(datagram), peer, local, 3, 2), w.now_ns)),
    ]
    assert handover.decode(w.strays[0][1]).data == datagram


def test_issued_ids_decode_and_their_reset_tokens_equal_those_of_reset_py() -> None:
    w = World("native")
    client = w.ready()
    w.run(seconds=1)
    cids = [(c.cid, c.stateless_reset_token) for c in (client.quic._peer_cid, *client.quic._peer_cid_available)]
    assert len({cid for cid, _ in cids}) >= 3
    for cid, token in cids:
        owner = w.codec.open(cid)
        assert owner is not None
        assert (owner.node_id, owner.worker_id) == (NODE_ID, 7)
        if token is not None:
            assert token == reset.reset_token(_reset_keys(w), cid)
    w.close()


def test_stateless_resets_have_the_token_and_length_of_reset_py() -> None:
    w = World("native")
    for length in (42, 43, 44, 45, 1200):
        cid = w.codec.issue(NODE_ID, 7)
        w.inject(PEER, (b"\x40" + cid + os.urandom(1200))[:length])
        answer = bytes(w.sent[-1].data)
        assert len(answer) == reset.reset_length(length)
        assert answer[-16:] == reset.reset_token(_reset_keys(w), cid)
        assert answer[0] & 0xC0 == 0x40
    w.close()


def _reset_keys(w: World) -> dict[int, bytes]:
    from velocity_edge.quic.engine_keys import engine_keys

    return engine_keys(w.table).reset_keys


def test_invalid_keys_are_refused_and_the_previous_ones_stay() -> None:
    from velocity_edge.quic.engine_keys import engine_keys

    w = World("native")
    good = engine_keys(w.table)
    for bad in (EngineKeys([], {}), EngineKeys(good.cid_configs * 2, {}), EngineKeys(good.cid_configs, {9: b"x" * 32})):
        with pytest.raises(ValueError, match=r"CID|twice|reset"):
            w.engine.use_keys(bad)
    assert w.ready().fetch("/bytes/10").body
