"""What a worker does with one datagram, before any connection does. Both engines follow these rules.

    the id is known here                         -> Deliver
    the id names another live worker of the node -> HandOver, once: a datagram that was handed over already is dropped
    unknown version, >= 1200 bytes               -> NegotiateVersion
    Initial, >= 1200 bytes, id of >= 8 bytes     -> Open: admission decides (admission.py)
    short header, id of this worker or of one
    that is gone, on this node                   -> Reset: the connection no longer exists
    everything else                              -> Drop, with the name of the verdict

Only the id of the first packet counts (RFC 9000 section 12.2 forbids coalescing for several connections). A train that
GRO made is cut into datagrams before: the kernel steers it by its first one, the others may be of other connections.
A packet of a live owner is never answered with a reset, which would end a working connection (RFC 9000 10.3.3).

Rate limits of the answers are decided by the engines, as they need a clock.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from velocity_edge.quic.reset import reset_length
from velocity_edge.wire.cid import CID_LENGTH, CidReader

QUIC_V1: Final = 1
SUPPORTED_VERSIONS: Final = (QUIC_V1,)
#: RFC 9000 section 14.1, and the least a datagram must have to be answered with Version Negotiation (section 6).
MIN_INITIAL_LENGTH: Final = 1200
#: RFC 9000 section 7.2: a client's first id has at least 8 bytes; section 17.2: 20 at most in version 1.
MIN_FIRST_CID: Final = 8
MAX_CID: Final = 20

_TYPE_INITIAL: Final = 0
_TYPE_RETRY: Final = 3


@dataclass(frozen=True, slots=True)
class Deliver:
    """A connection of this worker has the id."""

    cid: bytes


@dataclass(frozen=True, slots=True)
class HandOver:
    """It belongs to that worker."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class Open:
    """A well-formed first Initial; `admission.py` decides."""

    version: int
    dcid: bytes
    scid: bytes
    token: bytes


@dataclass(frozen=True, slots=True)
class NegotiateVersion:
    """Answer with the supported versions; the ids are exchanged (RFC 9000 section 17.2.1).

    Also for version 2 (RFC 9369), which has no feature that is needed; a client that starts with it loses a round trip.
    """

    version: int
    dcid: bytes
    scid: bytes


@dataclass(frozen=True, slots=True)
class Reset:
    """Answer with a stateless reset of this length."""

    cid: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing to do; `verdict` is a name of counters.VERDICTS."""

    verdict: str


Decision = Deliver | HandOver | Open | NegotiateVersion | Reset | Drop

_MALFORMED: Final = Drop("verdict_dropped_malformed")
_UNKNOWN_CID: Final = Drop("verdict_dropped_unknown_cid")
_FORWARDED: Final = Drop("verdict_dropped_forwarded")
_SMALL_INITIAL: Final = Drop("verdict_dropped_small_initial")
_VERSION: Final = Drop("verdict_dropped_version")


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """This worker and the other live ones; replaced as a whole when keys or the roster change."""

    codec: CidReader
    node_id: int
    worker_id: int
    live_worker_ids: frozenset[int]


def decide(datagram: bytes, known: Container[bytes], here: Whereabouts, *, forwarded: bool) -> Decision:
    """Return what to do with *datagram*. `known` are the ids of this worker's connections."""
    if not datagram:
        return _MALFORMED
    if datagram[0] & 0x80:
        return _decide_long(datagram, known, here, forwarded)
    return _decide_short(datagram, known, here, forwarded)


def _decide_short(datagram: bytes, known: Container[bytes], here: Whereabouts, forwarded: bool) -> Decision:
    cid = datagram[1 : 1 + CID_LENGTH]
    if cid in known:
        return Deliver(cid)
    # The fixed bit (RFC 9000 section 17.3.1). We don't offer to grease it (RFC 9287).
    if not datagram[0] & 0x40 or len(cid) < CID_LENGTH:
        return _MALFORMED
    worker_id = here.codec.worker_of(cid)
    if worker_id is None:
        return _UNKNOWN_CID
    if worker_id != here.worker_id:
        if forwarded:
            return _FORWARDED
        if worker_id in here.live_worker_ids:
            return HandOver(worker_id)
    # A trailer alone can match by chance; a reset acts for the owner, so the whole id must be ours.
    owner = here.codec.open(cid)
    length = reset_length(len(datagram))
    if owner is None or owner.node_id != here.node_id or length is None:
        return _UNKNOWN_CID
    return Reset(cid, length)


def _decide_long(datagram: bytes, known: Container[bytes], here: Whereabouts, forwarded: bool) -> Decision:
    # RFC 8999 section 5.1: flags, version, and two ids with their lengths; true of every version.
    if len(datagram) < 7:
        return _MALFORMED
    version = int.from_bytes(datagram[1:5], "big")
    dcid_end = 6 + datagram[5]
    dcid = datagram[6:dcid_end]
    if dcid_end >= len(datagram):
        return _MALFORMED
    scid_end = dcid_end + 1 + datagram[dcid_end]
    scid = datagram[dcid_end + 1 : scid_end]
    if scid_end > len(datagram) or version == 0:
        return _MALFORMED
    if version != QUIC_V1:
        return NegotiateVersion(version, dcid, scid) if len(datagram) >= MIN_INITIAL_LENGTH else _VERSION
    if len(dcid) > MAX_CID or len(scid) > MAX_CID or not datagram[0] & 0x40:
        return _MALFORMED
    if dcid in known:
        return Deliver(dcid)
    packet_type = datagram[0] >> 4 & 0x3
    if packet_type == _TYPE_RETRY:
        return _MALFORMED
    worker_id = here.codec.worker_of(dcid)
    if worker_id is not None and worker_id != here.worker_id and worker_id in here.live_worker_ids:
        return _FORWARDED if forwarded else HandOver(worker_id)
    if packet_type != _TYPE_INITIAL:
        return _UNKNOWN_CID
    if len(datagram) < MIN_INITIAL_LENGTH:
        return _SMALL_INITIAL
    token = _token(datagram, scid_end)
    if token is None or len(dcid) < MIN_FIRST_CID:
        return _MALFORMED
    return Open(version, dcid, scid, token)


def _token(datagram: bytes, offset: int) -> bytes | None:
    """Return the token of an Initial whose token length is at *offset*; None when the packet doesn't fit."""
    length, offset = _varint(datagram, offset)
    token = datagram[offset : offset + length]
    rest, offset = _varint(datagram, offset + length)
    # A packet number and the sample of header protection (RFC 9001 section 5.4.2) need 20 bytes.
    if len(token) < length or rest < 20 or offset + rest > len(datagram):
        return None
    return token


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """Return (value, offset behind it), RFC 9000 section 16; beyond the end a value that fits nowhere."""
    if offset >= len(data):
        return 1 << 62, offset
    size = 1 << (data[offset] >> 6)
    if offset + size > len(data):
        return 1 << 62, offset
    return int.from_bytes(data[offset : offset + size], "big") & (1 << (8 * size - 2)) - 1, offset + size
