"""The contract with aioquic: every method that we override or whose internals we rely on, and the digest of its source.

aioquic is pinned, but these are its private methods. So an upgrade is a review: `drift` names each method whose source
has changed since our override was written; review each, adapt ours, put the new digest here. The test
(tests/unit/velocity_edge/quic/test_compat.py) also fails when a class of ours overrides a method that is not listed.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from typing import Any, Final

#: "module:qualified name" -> the first 12 hex digits of SHA-256 of its source in aioquic 1.7.2.
OVERRIDDEN: Final = {
    "aioquic.quic.connection:QuicConnection.__init__": "81aea715e344",
    "aioquic.quic.connection:QuicConnection._initialize": "6a41681e541c",
    "aioquic.quic.connection:QuicConnection._get_or_create_stream": "aee09c84cd0d",
    "aioquic.quic.connection:QuicConnection._flush_builder": "ac4bd66d7c38",
    "aioquic.quic.connection:QuicConnection._handle_crypto_frame": "e77f8695d9ac",
    "aioquic.quic.connection:QuicConnection._replenish_connection_ids": "73b127efb89c",
    "aioquic.quic.connection:QuicConnection._handle_retire_connection_id_frame": "4f53abae92fa",
    "aioquic.quic.connection:QuicConnection._write_new_connection_id_frame": "8e58e506ea36",
    "aioquic.quic.connection:QuicConnection._write_handshake_done_frame": "026757fd9945",
    "aioquic.quic.connection:QuicConnection._write_connection_limits": "02c42c5455ae",
    "aioquic.quic.connection:QuicConnection._write_stream_limits": "398d4a898f7c",
    "aioquic.quic.connection:QuicConnection.close": "f24ea1b2912e",
    "aioquic.quic.connection:QuicConnection.receive_datagram": "3c7f29826050",
    "aioquic.h3.connection:H3Connection.__init__": "dd6af01c0d75",
    "aioquic.h3.connection:H3Connection._init_connection": "5dbdb7d87fbc",
    "aioquic.h3.connection:H3Connection._get_local_settings": "6d1ff1ffc258",
    "aioquic.h3.connection:H3Connection._handle_request_or_push_frame": "8cce022eb354",
    "aioquic.h3.connection:H3Connection._check_content_length": "17ae3ef636c2",
    "aioquic.h3.connection:H3Connection._check_request_or_push_frame_type": "c5c333619fec",
    "aioquic.h3.connection:H3Connection._check_control_frame_type": "0911d1bcb387",
    "aioquic.h3.connection:H3Connection._receive_stream_data_uni": "48efcd723438",
    "aioquic.h3.connection:H3Connection._receive_stream_reset": "916dddd6b857",
    "aioquic.h3.connection:H3Connection._abort_incomplete_request": "8a709cf029c0",
    "aioquic.h3.connection:H3Connection._decode_headers": "d2818e3da6cd",
    "aioquic.quic.congestion.cubic:CubicCongestionControl.reset": "f139e9d8d516",
    "aioquic.quic.congestion.reno:RenoCongestionControl.__init__": "05a863f85d2b",
}
RELIED_ON: Final = {
    # The peer's settings (portable/control.py).
    "aioquic.h3.connection:parse_settings": "df48a4a2eb8c",
    # Our TLS calls back where these expect aioquic's (portable/tls.py, aioquic_tls.py, trust.py).
    "aioquic.quic.connection:QuicConnection._alpn_handler": "11a969d2855d",
    "aioquic.quic.connection:QuicConnection._update_traffic_key": "44917755daf9",
    "aioquic.quic.connection:QuicConnection._push_crypto_data": "9e47f4101032",
    "aioquic.quic.connection:QuicConnection._parse_transport_parameters": "0da95a03bd5b",
    "aioquic.quic.connection:QuicConnection._serialize_transport_parameters": "be651f3ddfcd",
    "aioquic.quic.connection:QuicConnection._connect": "5cabbbe581ae",
    "aioquic.quic.connection:QuicConnection._close_end": "7e32d95840a6",
    # pieces.py is what these ask of their ranges; packets that only acknowledge may leave `sent_packets`.
    "aioquic.quic.stream:QuicStreamReceiver.handle_frame": "c54bce9f11e6",
    "aioquic.quic.stream:QuicStreamReceiver._pull_data": "0b249a0b2d93",
    "aioquic.quic.recovery:QuicPacketRecovery.on_packet_sent": "a83baa6e0570",
    "aioquic.quic.recovery:QuicPacketRecovery.on_ack_received": "1a7c69347908",
    "aioquic.quic.connection:QuicConnection._add_network_path": "4135b581b4d5",
    "aioquic.tls:verify_certificate": "19f4c650d927",
    "aioquic.tls:SessionTicket": "c2095b11207d",
}


def digest(name: str) -> str:
    """Return the digest of the source of "module:qualified name" as it is installed."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return hashlib.sha256(inspect.getsource(found).encode()).hexdigest()[:12]


def drift() -> list[str]:
    """Return the methods whose source has changed; empty when there are none."""
    found = []
    for name, expected in (OVERRIDDEN | RELIED_ON).items():
        try:
            actual = digest(name)
        except (ImportError, AttributeError, OSError):
            found.append(f"{name}: gone")
            continue
        if actual != expected:
            found.append(f"{name}: {actual} instead of {expected}")
    return found
