"""A worker decodes exactly what another one encodes for a hand-over link; anything else is a HandoverError."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.quic import handover
from velocity_edge.quic.datagrams import Train

addresses = st.tuples(
    st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)), st.integers(0, 65_535)
)


@st.composite
def trains(draw: st.DrawFn) -> Train:
    peer = draw(addresses)
    local = (draw(st.binary(min_size=len(peer[0]), max_size=len(peer[0]))), draw(st.integers(0, 65_535)))
    data = draw(st.binary(min_size=1, max_size=1500))
    received_ns = draw(st.integers(1, 2**64 - 1))
    return Train(data, len(data), peer, local, draw(st.integers(0, 65_535)), draw(st.integers(0, 255)), received_ns)


@given(trains())
def test_a_train_survives_encoding(train: Train) -> None:
    assert handover.decode(handover.encode(train.data, train, train.received_ns)) == train


@given(st.binary(max_size=200))
def test_any_bytes_are_a_train_or_a_handover_error(packet: bytes) -> None:
    try:
        train = handover.decode(packet)
    except handover.HandoverError:
        return
    # What is accepted is canonical: there is one packet for it.
    assert handover.encode(train.data, train, train.received_ns) == packet


@given(trains(), st.integers(0, handover.HEADER_LENGTH - 1), st.integers(1, 255))
def test_a_changed_header_is_refused_or_decodes_differently(train: Train, position: int, change: int) -> None:
    packet = bytearray(handover.encode(train.data, train, train.received_ns))
    packet[position] ^= change
    try:
        other = handover.decode(bytes(packet))
    except handover.HandoverError:
        return
    assert other != train


def test_the_bytes_are_the_documented_ones() -> None:
    """The native engine reads and writes them in C."""
    train = Train(b"Q", 1, (b"\x01\x02\x03\x04", 0x1234), (b"\x05\x06\x07\x08", 443), 2, 0xB8)
    packet = handover.encode(b"Q", train, 0x0102030405060708)
    assert packet.hex() == (
        "01b8000204000000010203040506070801020304" + "00" * 12 + "05060708" + "00" * 12 + "123401bb" + "51"
    )
    assert handover.HEADER_LENGTH == 52


@pytest.mark.parametrize("packet", [b"", bytes(51), bytes(52), b"\x02" + bytes(60), b"\x01" + bytes(60)])
def test_invalid_packets_are_refused(packet: bytes) -> None:
    with pytest.raises(handover.HandoverError):
        handover.decode(packet)
