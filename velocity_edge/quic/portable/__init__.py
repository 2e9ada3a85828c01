"""The portable engine: QUIC and HTTP/3 on aioquic, for machines without ngtcp2, and the reference for the native one.

    engine.py         `Requests` and `Datagrams`: the turns of the engine
    intake.py         datagrams in: one decision and one verdict each; new connections
    care.py           what follows for a connection after anything happened to it
    table.py          connections by id and handle, and the closing periods of those that ended
    edge.py           one connection: what happened on it, as events
    streams.py        its request streams
    waiting.py        how long it waits for its peer
    outbox.py         its answers on their way into packets, within bounds
    connection.py     aioquic's QuicConnection with our TLS and connection IDs
    bounds.py         the same, bounded
    windows.py        receive windows that slide with what was consumed
    pieces.py         stream data that came ahead of a gap
    ids.py            connection IDs with their reset tokens
    tls.py            our handshake in the place of aioquic's
    h3.py             aioquic's H3Connection with bounds, validation and GOAWAY
    control.py        the peer's unidirectional streams
    packets.py        packets that belong to no connection: Retry, refusals, Version Negotiation
    configuration.py  how aioquic is configured, congestion control included
    calendar.py       the deadlines of connections
    batch.py          datagrams in and out of sockets

Importing it takes half a second (aioquic, cryptography), so it is imported only where it serves.
"""

from __future__ import annotations

import logging

from velocity_edge.quic.portable.engine import PortableEngine

__all__ = ["PortableEngine"]

# aioquic logs errors of peers, once per packet, so that any sender could fill the log. They are counted instead.
logging.getLogger("quic").setLevel(logging.CRITICAL)
logging.getLogger("http3").setLevel(logging.CRITICAL)
