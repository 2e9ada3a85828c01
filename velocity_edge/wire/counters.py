"""Names of what a worker counts. The slab (slab.py) has one cell per name, in this order.

Verdicts obey a conservation law that tests assert after every experiment: each datagram that a worker took from its
sockets or from a hand-over link is counted under exactly one verdict:

    datagrams_received + datagrams_injected == sum of all verdict_*
"""

from __future__ import annotations

from typing import Final

from velocity_edge.wire.error_codes import NAMES

VERDICTS: Final = (
    "verdict_delivered",  # a connection of this worker took it (also when it could not be decrypted)
    "verdict_accepted",  # it opened a connection
    "verdict_retried",  # answered with a Retry
    "verdict_refused",  # answered with CONNECTION_CLOSE
    "verdict_version_negotiated",  # answered with a Version Negotiation packet
    "verdict_reset",  # answered with a stateless reset
    "verdict_handed_over",  # belongs to another worker, given to its link
    "verdict_dropped_malformed",  # not QUIC, impossible lengths
    "verdict_dropped_small_initial",  # an Initial in a datagram of less than 1200 bytes (RFC 9000 14.1)
    "verdict_dropped_unknown_cid",  # for no connection of ours and nothing that could open one
    "verdict_dropped_foreign_id",  # an Initial that carries an id of ours, no connection, no token: replayed or late
    "verdict_dropped_version",  # unknown version in a small datagram, or over the limit of answers
    "verdict_dropped_half_open",  # back from a Retry, and max_half_open is reached
    "verdict_dropped_prefix",  # back from a Retry, and its /24 or /56 has its share of half-open handshakes
    "verdict_dropped_connections",  # max_connections reached
    "verdict_dropped_not_accepting",  # this worker drains and nobody else took it
    "verdict_dropped_reset_limit",  # a reset was due, over max_resets_per_s
    "verdict_dropped_token",  # a Retry token that does not verify, without a close
    "verdict_dropped_forwarded",  # handed over to us but not ours either: never forwarded twice
    "verdict_dropped_internal",  # an upcall failed: a bug, see the log
)

COUNTERS: Final = (
    "datagrams_received",
    "datagrams_injected",
    *VERDICTS,
    "receive_calls",
    "receive_bytes",
    "socket_overflows",  # SO_RXQ_OVFL: dropped by the kernel because the socket's buffer was full
    "datagrams_sent",
    "send_calls",
    "send_bytes",
    "send_errors",
    "gso_fallbacks",
    "handover_full",  # strays lost because the owner's link was full
    "connections_opened",
    "connections_closed",
    # Each connection that was opened ends its handshake under exactly one of these three.
    "handshakes_completed",
    "handshakes_failed",  # an alert, or closed by either side before it was complete
    "handshakes_timed_out",
    "handshakes_resumed",
    "handshakes_x25519mlkem768",
    "handshakes_secp256r1mlkem768",
    "handshakes_secp384r1mlkem1024",
    "handshakes_classical",
    "hello_retry_requests",
    "requests",
    "responses_1xx",
    "responses_2xx",
    "responses_3xx",
    "responses_4xx",
    "responses_5xx",
    "streams_reset",
    "glitches",
    "migrations",
    "upcall_errors",
    "memory_exceeded",  # closed: the peer made us hold more than flow control and losses explain
    "migrations_refused",  # datagrams from yet another address, over max_migrations_per_s
    "path_mtu_lowered",  # connections that went on with 1200 bytes: larger packets did not arrive (RFC 8899 4.3)
    "stalled",  # connections closed: nothing of the answers was taken for stall_timeout
)

#: Losses, counted by the worker and not by an engine. `cut`: connections that it closed before they had left or been
#: idle for long enough; `lost`: requests that ran on them. By the deadline of a drain, the worker's stop, an abort.
LOSSES: Final = (
    "connections_cut_drain",
    "connections_cut_stop",
    "connections_cut_abort",
    "requests_lost_drain",
    "requests_lost_stop",
    "requests_lost_abort",
)

#: Connections that the node closed with an error, by its name; counted by the worker for both engines.
CLOSES: Final = tuple(f"closed_{name}" for name in NAMES)

#: Counted by admission (quic/admission.py) and not by an engine.
ADMISSION: Final = (
    "tokens_seen_again",  # NEW_TOKEN tokens that were used before, and so proved nothing
    "tokens_not_honoured",  # good ones of a prefix that had its share of half-open handshakes
)

#: What a worker did besides its engine.
WORK: Final = (
    "requests_deferred",  # waited for a later turn of the loop: handlers had used the time of theirs
    "requests_shed",  # answered with 503 because too much waited already
    "open_files_refused",  # answered with 503 because answers in flight hold too many open files
    "bodies_cut_short",  # a stream was reset because a file could not be read to its announced end
    "log_lines_lost",  # the reader of the output was too slow
)

#: Values that go up and down; a worker that takes over a slot sets them to zero. `progress` counts handshakes and
#: turns of the loop: while it changes, the process is not hung (supervisor/node/node.py).
GAUGES: Final = (
    "connections",
    "half_open",
    "streams",
    "rss_bytes",
    "loop_lag_us",
    "heartbeat_ns",
    "worker_id",
    "open_files",
    "progress",
)

#: What grows.
TOTALS: Final = (*COUNTERS, *LOSSES, *CLOSES, *ADMISSION, *WORK)
CELLS: Final = (*TOTALS, *GAUGES)
