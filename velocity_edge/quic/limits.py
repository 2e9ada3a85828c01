"""Bounds on all state and work that a peer can cause. The same numbers bound both engines.

Each value has the reason why it is not smaller or larger; the attack that it stops is a test in tests/attack/.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

#: What a peer was told (transport parameters, SETTINGS) or began its handshake under: its connection keeps them.
PROMISED: Final = (
    "handshake_timeout_s",
    "idle_timeout_s",
    "stream_window_bytes",
    "connection_window_bytes",
    "max_streams_bidi",
    "max_streams_uni",
    "max_field_section_bytes",
    "max_active_cids",
)

#: A prefix (/24, /56) with a validated address may have this part of `max_half_open` while all of it is free, and less
#: when less is free (admission.py). Alone it gets 207 of 2048, which is 2070 handshakes per second at 100 ms from one
#: network to one worker. With larger shares a few networks would fill it; with this one it takes 230.
PREFIX_SHARE: Final = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one worker and of one connection. Bytes, seconds and counts as the names say."""

    #: A connection is 40-90 KiB; a worker with this many idle ones stays under 2 GiB.
    max_connections: int = 20_000
    #: Established connections of one IPv4 address or IPv6 /56: a quarter, so that no client can take all places. An
    #: office or a carrier behind one address needs hundreds; a balancer that hides addresses needs all. 0: no bound.
    max_connections_per_address: int = 5_000
    #: Handshakes per worker that are in flight, or failed less than `handshake_timeout_s` ago, in units of a first
    #: flight's CPU time (half_open.py). From `retry_threshold` on an address must be validated first: 256 are 128 ms of
    #: CPU, so a flood costs that at once and 1.3 % of a core from then on, and a Retry costs 15 us. Regular new clients
    #: count for one round trip: 2500 per second at 100 ms come before any of them gets a Retry. `max_half_open` is for
    #: validated addresses, 10 % of a core and 140 MiB; `PREFIX_SHARE` bounds what one network gets.
    retry_threshold: int = 256
    max_half_open: int = 2048
    #: A post-quantum flight over a bad path takes 3-4 round trips and two PTOs; slower is an attack or no path.
    handshake_timeout_s: float = 10.0
    idle_timeout_s: float = 30.0
    #: Unauthenticated bytes held for one peer: out-of-order CRYPTO, one unfinished TLS message (a ClientHello is 2 KB).
    max_crypto_bytes: int = 16_384
    #: Receive windows. They slide with what the handler consumed, never with the highest offset seen (aioquic #589).
    stream_window_bytes: int = 256 * 1024
    connection_window_bytes: int = 1024 * 1024
    #: UDP payload that is sent, once probes of that size arrived. 1452 fill 1500 bytes over IPv6; less where there are
    #: tunnels. The portable engine always sends 1200.
    max_datagram_bytes: int = 1452
    max_streams_bidi: int = 100
    max_streams_uni: int = 3
    #: All fields of a request, decoded (RFC 9114 section 4.2.2): what the peer is told. Above it the answer is 431,
    #: above four times of it, on the wire or decoded, the stream is reset with H3_EXCESSIVE_LOAD.
    max_field_section_bytes: int = 16_384
    max_control_frame_bytes: int = 1024
    #: Send buffers: a writer waits above high and continues below low.
    send_high_bytes: int = 256 * 1024
    send_low_bytes: int = 64 * 1024
    #: Bytes of bodies in flight, which stay in memory until they are acknowledged: 8 MiB fill 640 Mbit/s at 100 ms.
    #: When a worker holds more than its share, no connection gets more than `send_high_bytes`.
    max_unacked_bytes: int = 8 * 1024 * 1024
    max_unacked_bytes_per_worker: int = 256 * 1024 * 1024
    max_active_cids: int = 4
    #: Streams that the peer may reset or that fail in a connection within a second, before it is closed with
    #: H3_EXCESSIVE_LOAD (rapid reset, CVE-2023-44487, over HTTP/3).
    max_glitches_per_s: int = 200
    #: Changes of a client's address in a connection within a second (RFC 9000 section 9). A NAT or a phone changes it
    #: once in minutes, the worst of our tests once a second; each change costs a PATH_CHALLENGE, and 400 bytes until
    #: that is acknowledged. Datagrams from yet another address are dropped.
    max_migrations_per_s: int = 4
    #: A request whose header section does not complete in this time is reset (slowloris). One that still comes in when
    #: its whole answer has arrived may go on for as long, then the peer is asked to stop (RFC 9114 section 4.1).
    request_timeout_s: float = 20.0
    #: A client that takes nothing of its answers (no credit, a paused video) is kept for this long, with PINGs if it
    #: says nothing itself, and then closed: answers hold memory and open files. nginx waits 60 s; pauses are longer.
    stall_timeout_s: float = 300.0
    #: Of a request's body, whether it is kept or thrown away; above it the answer is 413. Memory is bounded by the
    #: windows, this bounds how long one request can occupy a worker and a drain.
    max_request_body_bytes: int = 16 * 1024 * 1024
    #: Stateless resets and version negotiation packets per worker and second: reflection is capped.
    #: Resets make the clients of a worker that ended connect again, all at once: with 100 here, 150 connections had 800
    #: packets unanswered, and some clients waited for seconds. A reset is smaller than what it answers.
    max_resets_per_s: int = 1000
    max_version_negotiations_per_s: int = 100

    # What it costs to keep received bytes, beside the bytes. Derived, so that a larger window enlarges these, too.

    @property
    def half_open_memory_bytes(self) -> int:
        """Memory that packets of a handshake may make the native engine hold (measured: 28 KiB for a regular one).

        An unfinished message and what came ahead of it are kept in blocks of 8 KiB. Without this bound, bytes with gaps
        between them made it 456 KiB.
        """
        return 32 * 1024 + 2 * self.max_crypto_bytes

    @property
    def received_memory_bytes(self) -> int:
        """Memory that packets of a client with a connection may make the native engine hold.

        Data behind a gap is kept in blocks of 8 KiB, at worst two of them for a few bytes of a stream. Each gap costs
        100 bytes: losses of whole packets make one per 2 KiB of window at most. Gaps of a byte made it 38 MiB.
        """
        streams = self.max_streams_bidi + self.max_streams_uni
        return 256 * 1024 + self.connection_window_bytes * 5 // 4 + streams * 18 * 1024

    @property
    def sent_memory_bytes(self) -> int:
        """Memory for packets that are not acknowledged, beside four times the bytes that were in flight at most.

        A small packet costs 400 bytes until it is acknowledged, which a peer may never do.
        """
        return 1024 * 1024

    @property
    def max_unacked_packets(self) -> int:
        """Packets that the portable engine keeps until they are acknowledged, beside one per 256 bytes in flight.

        Each costs a kilobyte. Those that only acknowledge are not kept for long: a peer need never acknowledge them.
        """
        return 1024

    @property
    def max_stream_gaps(self) -> int:
        """Pieces of one stream that wait for what is missing between them, in the portable engine.

        When every other packet of a whole window is lost there are 110 of them.
        """
        return 64 + self.stream_window_bytes // 1024

    @property
    def max_connection_gaps(self) -> int:
        """The same for all streams of a connection."""
        return 64 + self.max_streams_bidi + self.connection_window_bytes // 1024

    @property
    def max_crypto_gaps(self) -> int:
        """The same for the handshake messages of one level. Browsers cut a ClientHello into a dozen shuffled pieces."""
        return 64

    def for_connection_of(self, earlier: Limits) -> Limits:
        """Return what holds now for a connection that began under *earlier* limits."""
        return replace(self, **{name: getattr(earlier, name) for name in PROMISED})
