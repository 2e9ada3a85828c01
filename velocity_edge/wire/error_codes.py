"""The names of the error codes that close a connection, in counters and log lines. Pure.

Transport codes are RFC 9000 section 20.1, application codes RFC 9114 section 8.1 and RFC 9204 section 8.3. The set of
names is closed: a code without one is `other`, so that no peer and no library can add a counter.
"""

from __future__ import annotations

from typing import Final

_TRANSPORT: Final = {
    0x01: "internal_error",
    0x02: "connection_refused",
    0x03: "flow_control_error",
    0x04: "stream_limit_error",
    0x05: "stream_state_error",
    0x06: "final_size_error",
    0x07: "frame_encoding_error",
    0x08: "transport_parameter_error",
    0x09: "connection_id_limit_error",
    0x0A: "protocol_violation",
    0x0B: "invalid_token",
    0x0C: "application_error",
    0x0D: "crypto_buffer_exceeded",
    0x0E: "key_update_error",
    0x0F: "aead_limit_reached",
    0x10: "no_viable_path",
}
#: A TLS alert is added to this (RFC 9001 section 4.8).
_CRYPTO_ERROR: Final = range(0x100, 0x200)

H3_NO_ERROR: Final = 0x100
_APPLICATION: Final = {
    0x101: "h3_general_protocol_error",
    0x102: "h3_internal_error",
    0x103: "h3_stream_creation_error",
    0x104: "h3_closed_critical_stream",
    0x105: "h3_frame_unexpected",
    0x106: "h3_frame_error",
    0x107: "h3_excessive_load",
    0x108: "h3_id_error",
    0x109: "h3_settings_error",
    0x10A: "h3_missing_settings",
    0x10B: "h3_request_rejected",
    0x10C: "h3_request_cancelled",
    0x10D: "h3_request_incomplete",
    0x10E: "h3_message_error",
    0x10F: "h3_connect_error",
    0x110: "h3_version_fallback",
    0x200: "qpack_decompression_failed",
    0x201: "qpack_encoder_stream_error",
    0x202: "qpack_decoder_stream_error",
}

#: Every name that `error_name` can return.
NAMES: Final = (*_TRANSPORT.values(), "crypto_error", *_APPLICATION.values(), "other")


def is_error(code: int, *, application: bool) -> bool:
    """Return whether *code* is an error: NO_ERROR and H3_NO_ERROR are not."""
    return code != (H3_NO_ERROR if application else 0)


def error_name(code: int, *, application: bool) -> str:
    """Return the name of *code* in lower case, one of `NAMES`."""
    if application:
        return _APPLICATION.get(code, "other")
    return "crypto_error" if code in _CRYPTO_ERROR else _TRANSPORT.get(code, "other")
