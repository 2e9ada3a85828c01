"""The names of a worker's counters and gauges. The slab (slab.py) has one cell per name, in this order.

Each datagram that a worker takes from its sockets or from a hand-over link is counted under exactly one verdict; tests
assert the sum after every experiment:

    datagrams_received + datagrams_injected == sum of all verdict_*
"""

from __future__ import annotations

from typing import Final

from velocity_edge.wire.error_codes import NAMES

VERDICTS: Final = (
    "verdict_delivered",  # delivered to a connection of this worker (also when it could not be decrypted)
    "verdict_accepted",  # it opened a connection
    "verdict_retried",  # answered with a Retry
    "verdict_refused",  # answered with CONNECTION_CLOSE
    "verdict_version_negotiated",  # answered with a Version Negotiation packet
    "verdict_reset",  # answered with a stateless reset
    "verdict_handed_over",  # belongs to another worker, sent on its link
    "verdict_dropped_malformed",  # not QUIC, impossible lengths
    "verdict_dropped_small_initial",  # an Initial in a datagram of less than 1200 bytes (RFC 9000 14.1)
    "verdict_dropped_unknown_cid",  # for no connection of this worker, and it cannot open one
    "verdict_dropped_foreign_id",  # an Initial with an ID of this node, without a connection or token: replayed or late
    "verdict_dropped_version",  # unknown version in a small datagram, or over the limit of answers
    "verdict_dropped_half_open",  # answered a Retry, but max_half_open is reached
    "verdict_dropped_prefix",  # answered a Retry, but its /24 or /56 has its share of half-open handshakes
    "verdict_dropped_connections",  # max_connections reached
    "verdict_dropped_not_accepting",  # this worker drains, and no other worker took it
    "verdict_dropped_reset_limit",  # a reset was due, over max_resets_per_s
    "verdict_dropped_token",  # a Retry token that does not verify, without a close
    "verdict_dropped_forwarded",  # handed over to this worker by mistake: never forwarded twice
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
    "memory_exceeded",  # closed: held more memory for the peer than flow control and losses explain
    "migrations_refused",  # datagrams from a further address, over max_migrations_per_s
    "path_mtu_lowered",  # connections that continued with 1200 bytes: larger packets were lost (RFC 8899 4.3)
    "stalled",  # connections closed: the peer read nothing of the answers for stall_timeout
)

#: Losses, counted by the worker, not by the engine. `cut`: connections that it closed before the client had left or
#: been idle for long enough; `lost`: requests that ran on them. By the deadline of a drain, the stop of the worker, or
#: an abort.
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

#: Counted by admission (quic/admission.py), not by the engine.
ADMISSION: Final = (
    "tokens_seen_again",  # NEW_TOKEN tokens that were used before, and so prove no address
    "tokens_not_honoured",  # valid tokens of a prefix that has its share of half-open handshakes
)

#: Counted by the worker, outside the engine.
WORK: Final = (
    "requests_deferred",  # waited for a later turn of the loop: handlers had used up the time of this one
    "requests_shed",  # answered with 503 because too many requests were waiting
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

#: Everything that only grows.
TOTALS: Final = (*COUNTERS, *LOSSES, *CLOSES, *ADMISSION, *WORK)
CELLS: Final = (*TOTALS, *GAUGES)
