"""The contract with aioquic: the source of every method that we override or rely on, as a hash.

aioquic is pinned, and its upgrade is a review of the methods named here, not a surprise: the test of this table fails
with their names, one reads the two versions of each, adapts what overrides it, and writes the new hashes down
(`python -m velocity_edge.quic.compat` prints them).

    QuicConnection    portable/connection.py, portable/windows.py, portable/tls.py, client/connection.py, aioquic_tls.py
    streams           portable/edge.py reads their buffers
    H3Connection      portable/h3.py, client/connection.py
    congestion        portable/congestion.py
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from typing import Final

AIOQUIC_VERSION: Final = "1.7.2"

CONTRACT: Final[dict[str, dict[str, str]]] = {
    "aioquic.quic.connection.QuicConnection": {
        "__init__": "81aea715e344",
        "_initialize": "6a41681e541c",
        "_connect": "5cabbbe581ae",
        "_alpn_handler": "11a969d2855d",
        "_parse_transport_parameters": "0da95a03bd5b",
        "_serialize_transport_parameters": "be651f3ddfcd",
        "_update_traffic_key": "44917755daf9",
        "_push_crypto_data": "9e47f4101032",
        "_handle_crypto_frame": "e77f8695d9ac",
        "_handle_retire_connection_id_frame": "4f53abae92fa",
        "_replenish_connection_ids": "73b127efb89c",
        "_write_new_connection_id_frame": "8e58e506ea36",
        "_write_handshake_done_frame": "026757fd9945",
        "_write_application": "c37bf64378f7",
        "_write_connection_limits": "02c42c5455ae",
        "_write_stream_limits": "398d4a898f7c",
        "_get_or_create_stream": "aee09c84cd0d",
        "receive_datagram": "3c7f29826050",
        "datagrams_to_send": "f4eb22c8add2",
        "get_timer": "07184a05f894",
        "handle_timer": "8ebd76a179bf",
        "close": "f24ea1b2912e",
        "_close_begin": "d8cdcfd45139",
        "_close_end": "7e32d95840a6",
        "_receive_retry_packet": "4064f8da7e02",
    },
    "aioquic.quic.stream.QuicStreamReceiver": {
        "handle_frame": "c54bce9f11e6",
        "handle_reset": "3a2b7a53512a",
    },
    "aioquic.quic.stream.QuicStreamSender": {
        "write": "77d188425093",
        "on_data_delivery": "675e1c2812ea",
        "reset": "76d86e366e8e",
    },
    "aioquic.h3.connection.H3Connection": {
        "__init__": "dd6af01c0d75",
        "handle_event": "244473969c52",
        "_init_connection": "5dbdb7d87fbc",
        "_get_local_settings": "6d1ff1ffc258",
        "_decode_headers": "d2818e3da6cd",
        "_encode_headers": "6b5441e82e86",
        "_handle_request_or_push_frame": "8cce022eb354",
        "_check_content_length": "17ae3ef636c2",
        "_check_request_or_push_frame_type": "c5c333619fec",
        "_check_control_frame_type": "0911d1bcb387",
        "_handle_control_frame": "2a362270311d",
        "_receive_request_or_push_data": "9d6a7ba4950b",
        "_receive_stream_data_uni": "48efcd723438",
        "_receive_stream_reset": "916dddd6b857",
    },
    "aioquic.quic.congestion.cubic.CubicCongestionControl": {
        "__init__": "5e2437205a0a",
        "reset": "f139e9d8d516",
    },
    "aioquic.quic.congestion.base.QuicCongestionControl": {
        "__init__": "05a863f85d2b",
    },
}


def current() -> dict[str, dict[str, str]]:
    """Return the same table for the aioquic that is installed; a method that is gone has an empty hash."""
    return {name: {method: _hash(name, method) for method in methods} for name, methods in CONTRACT.items()}


def changed() -> list[str]:
    """Return the methods whose source is not what it was when we last looked."""
    now = current()
    return [
        f"{name}.{method}"
        for name, methods in CONTRACT.items()
        for method, known in methods.items()
        if now[name][method] != known
    ]


def _hash(name: str, method: str) -> str:
    module, _, owner = name.rpartition(".")
    function = getattr(getattr(importlib.import_module(module), owner), method, None)
    return "" if function is None else hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:12]


if __name__ == "__main__":
    for class_name, hashes in current().items():
        for method_name, digest in hashes.items():
            print(f"{class_name}.{method_name} {digest}")
