"""The counters of the packet programs by stage, in the order of their cells (maps.h has the same lists).

Each packet gets exactly one verdict in each stage that it passes. `cpumap` is for tier D: moved + stayed are the
packets for a listener that XDP passed, moved - arrived were lost in a full queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

XDP: Final = (
    "passed_not_ours",  # not UDP to a listener: ARP, TCP, ICMP, other ports
    "passed_fragment",  # a later fragment: the first one was dropped if it was for a listener
    "passed_not_linear",  # the head is not in linear memory: socket selection decides
    "passed_known_worker",  # the connection ID decodes to a live worker
    "passed_initial",  # a new connection
    "passed_initial_token",  # a new connection with a token
    "passed_zero_rtt",  # 0-RTT of a new connection
    "passed_other_version",  # to be answered with Version Negotiation
    "passed_must_retry",  # over the limit, marked to be answered with a Retry
    "dropped_malformed",  # impossible lengths
    "dropped_source_port",  # from a source port of reflection attacks
    "dropped_denied",  # on the deny list
    "dropped_impossible_type",  # Retry or Version Negotiation: only servers send these
    "dropped_small_initial",  # RFC 9000 section 14.1: under 1200 bytes
    "dropped_short_dcid",  # RFC 9000 section 7.2: Initial or 0-RTT with an id under 8 bytes
    "dropped_small_version",  # unknown version under 1200 bytes: answering would amplify
    "dropped_undecodable",  # short header or Handshake whose connection ID does not decode
    "dropped_unknown_worker",  # the connection ID decodes to no live worker
    "dropped_initial_limit",  # over the rate of its /24 or /56
    "dropped_token_limit",
    "dropped_zero_rtt_limit",
    "dropped_version_limit",
    "dropped_attack",  # attack mode: does not decode and is not an Initial
    "dropped_fragment",  # the first fragment of a datagram: QUIC has none, RFC 9000 section 14
    "dropped_header_chain",  # more VLAN tags or IPv6 extension headers than are parsed
    "dropped_known_limit",  # Initial or 0-RTT to a worker's ID: over the rate of its prefix or of the ID
)

SELECT: Final = (
    "selected_known_worker",  # the connection ID decodes to a live worker
    "selected_pinned",  # a further packet of a handshake that has a worker
    "selected_new",  # a new connection, to an accepting worker
    "selected_other_version",  # to an accepting worker, for Version Negotiation
    "dropped_malformed",
    "dropped_impossible_type",
    "dropped_small_initial",
    "dropped_short_dcid",
    "dropped_small_version",
    "dropped_undecodable",
    "dropped_unknown_worker",
    "dropped_no_acceptor",  # a new connection, and no worker accepts any
    "dropped_no_socket",  # the worker's slot has no socket
)

CPUMAP: Final = ("moved", "stayed", "arrived")

#: In the order of enum stage.
STAGES: Final[Mapping[str, tuple[str, ...]]] = {"xdp": XDP, "select": SELECT, "cpumap": CPUMAP}
