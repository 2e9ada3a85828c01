"""The step before the ClientHello is parsed: what it returns enters the handshake, also after a HelloRetryRequest."""

from __future__ import annotations

import dataclasses

from tests.support import tls as support
from velocity_edge.tls import codec, kex
from velocity_edge.tls.alerts import AlertDescription, illegal_parameter
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.transport import Level
from velocity_edge.tls.vectors import message

KEY = 0x5A


def wrapped(receiver: str, level: int, inner: bytes) -> bytes:
    """Hide a ClientHello inside another one, as Encrypted Client Hello does."""
    if (receiver, level) != ("server", Level.INITIAL):
        return inner
    return message(codec.CLIENT_HELLO, bytes(byte ^ KEY for byte in inner))


class Unwrap:
    """A `HelloOpener` with state: it counts the hellos of its handshake."""

    def __init__(self) -> None:
        self.opened = 0
        MADE.append(self)

    def open(self, outer: bytes) -> bytes:
        self.opened += 1
        return bytes(byte ^ KEY for byte in outer[4:])


MADE: list[Unwrap] = []


def policy() -> ServerPolicy:
    MADE.clear()
    return dataclasses.replace(support.policy(), hello_opener=Unwrap)


def test_the_inner_hello_replaces_the_outer_one() -> None:
    pair = support.run(policy(), tamper=wrapped)
    assert pair.alert is None
    assert pair.server.done
    assert pair.server.server_name == support.NAME
    # The transcript has the inner hello, or Finished would not verify on either side.
    assert pair.client_transport.keys[True, Level.ONE_RTT] == pair.server_transport.keys[False, Level.ONE_RTT]
    assert [opener.opened for opener in MADE] == [1]


def test_one_opener_opens_both_hellos_of_a_retry() -> None:
    pair = support.run(policy(), support.client(shares=(kex.X25519,)), tamper=wrapped)
    assert pair.alert is None
    assert pair.server.done
    assert pair.server.retried
    assert [opener.opened for opener in MADE] == [2]


def test_each_handshake_has_an_opener_of_its_own() -> None:
    ours = policy()
    for _ in range(2):
        support.run(ours, tamper=wrapped)
    assert [opener.opened for opener in MADE] == [1, 1]


def test_an_alert_of_the_opener_ends_the_handshake() -> None:
    class Refuses:
        def open(self, outer: bytes) -> bytes:
            raise illegal_parameter("the inner hello is not one")

    pair = support.run(dataclasses.replace(support.policy(), hello_opener=Refuses))
    assert pair.alert == ("server", AlertDescription.ILLEGAL_PARAMETER)
    assert pair.server.alert_reason == "the inner hello is not one"


def test_the_opened_hello_is_parsed_as_strictly() -> None:
    class Broken:
        def open(self, outer: bytes) -> bytes:
            return outer[:-1]

    pair = support.run(dataclasses.replace(support.policy(), hello_opener=Broken))
    assert pair.alert == ("server", AlertDescription.DECODE_ERROR)
