"""TLS alerts: the only way in which TLS refuses what a peer sent.

Parser, key exchange and state machines raise `Alert`; `handshake.ServerHandshake.feed` turns it into the number on
the wire (in QUIC CONNECTION_CLOSE 0x100 + alert, RFC 9001 section 4.8). Any other exception is a bug.
"""

from __future__ import annotations

import enum


class AlertDescription(enum.IntEnum):
    """The alerts that we send or name in logs (RFC 8446 section 6)."""

    UNEXPECTED_MESSAGE = 10
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    CERTIFICATE_EXPIRED = 45
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    NO_APPLICATION_PROTOCOL = 120


class Alert(Exception):
    """The peer broke a rule, or the sides have nothing in common. `reason` is for the log, the peer gets the number."""

    def __init__(self, description: AlertDescription, reason: str) -> None:
        super().__init__(f"{description.name.lower()}: {reason}")
        self.description = description
        self.reason = reason


def decode_error(reason: str) -> Alert:
    """Return the alert for a message that is not well formed."""
    return Alert(AlertDescription.DECODE_ERROR, reason)


def illegal_parameter(reason: str) -> Alert:
    """Return the alert for a well-formed field with a forbidden or contradictory value."""
    return Alert(AlertDescription.ILLEGAL_PARAMETER, reason)


def handshake_failure(reason: str) -> Alert:
    """Return the alert for two sides without common parameters."""
    return Alert(AlertDescription.HANDSHAKE_FAILURE, reason)


def unexpected_message(reason: str) -> Alert:
    """Return the alert for a message that this state or encryption level does not allow."""
    return Alert(AlertDescription.UNEXPECTED_MESSAGE, reason)


def missing_extension(reason: str) -> Alert:
    """Return the alert for an extension that TLS 1.3 or QUIC makes mandatory."""
    return Alert(AlertDescription.MISSING_EXTENSION, reason)
