"""The portable engine: QUIC and HTTP/3 by aioquic, for machines without ngtcp2, and as the oracle of the native one.

    engine.py       the turns of the seam (Requests and Datagrams)
    table.py        connections by id and handle, and recently closed ones
    edge.py         one connection of ours: what happened on it, as events
    outbox.py       its answers on their way into packets, within bounds
    connection.py   aioquic's QuicConnection with our ids, windows and limits
    ids.py          connection ids with their reset tokens
    windows.py      receive windows that slide with what was consumed
    tls.py          our handshake in the place of aioquic's
    h3.py           aioquic's H3Connection with bounds, validation and GOAWAY
    message.py      what a well-formed request is (RFC 9114 section 4.3)
    packets.py      the packets that belong to no connection: Retry, refusals, version negotiation
    congestion.py   CUBIC with a window for post-quantum flights
    calendar.py     who must be woken when
    batch.py        datagrams in and out of sockets

Importing it takes half a second (aioquic, cryptography), so only workers that use it do.
"""

from __future__ import annotations

import logging

from velocity_edge.quic.portable.engine import PortableEngine

__all__ = ["PortableEngine"]

# aioquic logs what peers do wrong, once per packet: log volume in a stranger's hand. We count it instead.
logging.getLogger("quic").setLevel(logging.CRITICAL)
logging.getLogger("http3").setLevel(logging.CRITICAL)
