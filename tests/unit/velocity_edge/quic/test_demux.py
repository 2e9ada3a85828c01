"""Any bytes get exactly one decision, and each decision holds what its documentation says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.quic import demux
from velocity_edge.wire.cid import CidConfig
from velocity_edge.wire.cid_codec import CidCodec
from velocity_edge.wire.counters import VERDICTS

CODEC = CidCodec([CidConfig(3, bytes(16), bytes(range(16))), CidConfig(2, bytes(16), bytes(range(16, 32)))])
HERE = demux.Whereabouts(CODEC, node_id=1, worker_id=7, live_worker_ids=frozenset((7, 8)))
MINE, LIVE, GONE, FOREIGN = (
    CODEC.issue(1, 7),
    CODEC.issue(1, 8),
    CODEC.issue(1, 99),
    CODEC.issue(2, 99),
)
KNOWN = frozenset((CODEC.issue(1, 7), b"12345678"))

cids = st.one_of(
    st.sampled_from([MINE, LIVE, GONE, FOREIGN, *KNOWN]), st.binary(max_size=22), st.binary(min_size=8, max_size=20)
)


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    """Datagrams that are QUIC, and some that nearly are."""
    first = draw(st.integers(0, 255))
    dcid = draw(cids)
    if not first & 0x80:
        return bytes((first,)) + dcid + bytes(draw(st.sampled_from([0, 1, 20, 21, 22, 60, 1180])))
    version = draw(st.sampled_from([0, 1, 1, 1, 2, 0x1A2A3A4A]))
    scid = draw(st.binary(max_size=22))
    token = draw(st.sampled_from([b"\x00", b"\x03abc", b"\x40\x01x", b"\x7f\xff", b"\xff"]))
    rest = draw(st.sampled_from([b"\x44\x90", b"\x14", b"\x7f\xff", b""]))
    head = bytes((first,)) + version.to_bytes(4, "big") + bytes((len(dcid),)) + dcid + bytes((len(scid),)) + scid
    length = draw(st.sampled_from([0, 30, 1100, 1200, 1300]))
    return (head + token + rest + bytes(length))[: draw(st.sampled_from([7, 40, 1199, 1200, 1500]))]


@given(st.one_of(datagrams(), st.binary(max_size=64)), st.booleans())
def test_every_datagram_gets_one_decision_that_holds(datagram: bytes, forwarded: bool) -> None:
    match demux.decide(datagram, KNOWN, HERE, forwarded=forwarded):
        case demux.Deliver(cid):
            assert cid in KNOWN
        case demux.HandOver(worker_id):
            assert not forwarded
            assert worker_id == 8
        case demux.Open(version, dcid, scid, token):
            assert version == 1
            assert len(datagram) >= 1200
            assert 8 <= len(dcid) <= 20
            assert len(scid) <= 20
            assert token in datagram
            assert CODEC.worker_of(dcid) != 8
        case demux.NegotiateVersion(_, dcid, scid):
            assert len(datagram) >= 1200
            assert datagram[1:5] not in (bytes(4), b"\x00\x00\x00\x01")
            assert bytes((len(dcid),)) + dcid + bytes((len(scid),)) + scid in datagram
        case demux.Reset(cid, length):
            assert not datagram[0] & 0x80
            assert cid in (MINE, GONE)
            assert 41 <= length < len(datagram)
            assert not (forwarded and cid == GONE)
        case demux.Drop(verdict):
            assert verdict in VERDICTS


def test_a_packet_of_a_live_owner_is_not_checked_further() -> None:
    """The owner checks it, who may have the connection."""
    small = bytes([0xC3, 0, 0, 0, 1, 20]) + LIVE + bytes(30)
    assert demux.decide(small, KNOWN, HERE, forwarded=False) == demux.HandOver(8)
    handshake = bytes([0xE3, 0, 0, 0, 1, 20]) + LIVE + bytes(30)
    assert demux.decide(handshake, KNOWN, HERE, forwarded=False) == demux.HandOver(8)


def test_ids_of_both_live_key_epochs_are_decoded() -> None:
    older = CidCodec([CODEC.configs[2]]).issue(1, 8)
    assert demux.decide(b"\x43" + older + bytes(40), KNOWN, HERE, forwarded=False) == demux.HandOver(8)


def test_an_initial_with_the_id_of_a_worker_that_ended_goes_to_admission() -> None:
    """Its token may be valid: any worker of the node can verify it."""
    datagram = bytes([0xC3, 0, 0, 0, 1, 20]) + GONE + b"\x04abcd" + b"\x03tok" + b"\x44\x60" + bytes(1300)
    assert demux.decide(datagram, KNOWN, HERE, forwarded=False) == demux.Open(1, GONE, b"abcd", b"tok")
