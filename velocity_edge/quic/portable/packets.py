"""Packets that belong to no connection: Retry, a refusal, Version Negotiation. Whole datagrams, built by aioquic."""

from __future__ import annotations

import os

from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicFrameType,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
)
from aioquic.quic.packet_builder import QuicPacketBuilder

from velocity_edge.quic.datagrams import Initial, Refuse, Retry
from velocity_edge.quic.demux import SUPPORTED_VERSIONS, NegotiateVersion

_MAX_REASON = 128


def version_negotiation(asked: NegotiateVersion) -> bytes:
    """Build Version Negotiation: the ids are exchanged (RFC 9000 section 17.2.1)."""
    # A reserved version of the form 0x?a?a?a?a (section 15), so that clients ignore unknown versions; never the one of
    # the client, which would have to discard the packet (section 6.2).
    reserved = int.from_bytes(os.urandom(4), "big") & 0xF0F0F0F0 | 0x0A0A0A0A
    if reserved == asked.version:
        reserved ^= 0x10000000
    packet: bytes = encode_quic_version_negotiation(
        source_cid=asked.dcid, destination_cid=asked.scid, supported_versions=[*SUPPORTED_VERSIONS, reserved]
    )
    return packet


def retry(initial: Initial, answer: Retry) -> bytes:
    """Build a Retry packet (RFC 9000 section 17.2.5)."""
    packet: bytes = encode_quic_retry(
        version=initial.version,
        source_cid=answer.scid,
        destination_cid=initial.scid,
        original_destination_cid=initial.dcid,
        retry_token=answer.token,
    )
    return packet


def refusal(initial: Initial, answer: Refuse) -> bytes:
    """Build CONNECTION_CLOSE in an Initial packet, under the keys of the client's id (RFC 9001 section 5.2)."""
    crypto = CryptoPair()
    crypto.setup_initial(cid=initial.dcid, is_client=False, version=initial.version)
    builder = QuicPacketBuilder(
        host_cid=initial.dcid, is_client=False, max_datagram_size=1200, peer_cid=initial.scid, version=initial.version
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    reason = answer.reason.encode()[:_MAX_REASON]
    frame = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=26 + len(reason))
    frame.push_uint_var(answer.error_code)
    frame.push_uint_var(QuicFrameType.PADDING)
    frame.push_uint_var(len(reason))
    frame.push_bytes(reason)
    datagrams, _ = builder.flush()
    packet: bytes = datagrams[0]
    return packet
