"""The handshake over a byte stream, as a record layer over TCP will carry it: no QUIC transport parameters.

The stream is a pretend record layer: each record has a level and a length, and is cut anywhere on its way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import tls as support
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import first_table
from velocity_edge.tls import choices, client_checks, codec, kex
from velocity_edge.tls.alerts import Alert, AlertDescription
from velocity_edge.tls.client import ClientHandshake
from velocity_edge.tls.client_hello import parse_client_hello
from velocity_edge.tls.client_policy import Session
from velocity_edge.tls.codec_client import parse_encrypted_extensions
from velocity_edge.tls.handshake import ServerHandshake
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.replay import EarlyData
from velocity_edge.tls.tickets import Tickets
from velocity_edge.tls.transport import CONTINUE, HandshakeTransport, Level, MessageReader
from velocity_edge.tls.vectors import extension, message, opaque

RECORD = 5


@dataclass
class Stream:
    """One direction of a connection: what its writer sent, with what each message says about its keys."""

    keys: dict[tuple[bool, int], tuple[int, bytes]] = field(default_factory=dict)
    sent: bytearray = field(default_factory=bytearray)

    def install_key(self, write: bool, level: Level, cipher_suite: int, secret: bytes) -> None:
        self.keys[write, int(level)] = (cipher_suite, secret)

    def send_crypto(self, level: Level, data: bytes) -> None:
        assert level == Level.INITIAL or (True, int(level)) in self.keys, "sent before its key"
        for at in range(0, len(data), 1000):
            piece = data[at : at + 1000]
            self.sent += bytes((level,)) + len(piece).to_bytes(RECORD - 1, "big") + piece


@dataclass
class Receiver:
    """Reads the records of a stream and feeds whole messages to one side."""

    side: Any
    reader: MessageReader = field(default_factory=lambda: MessageReader(65_536))
    pending: bytes = b""
    messages: list[tuple[int, bytes]] = field(default_factory=list)
    alert: int = CONTINUE

    def take(self, data: bytes, tamper: Callable[[bytes], bytes]) -> None:
        for at in range(0, len(data), 7):
            self.pending += data[at : at + 7]
            for level, piece in self._records():
                for whole in self.reader.messages(level, piece):
                    self._feed(level, tamper(whole))

    def _records(self) -> Iterator[tuple[int, bytes]]:
        while len(self.pending) >= RECORD:
            end = RECORD + int.from_bytes(self.pending[1:RECORD], "big")
            if len(self.pending) < end:
                return
            record, self.pending = self.pending[:end], self.pending[end:]
            yield record[0], record[RECORD:]

    def _feed(self, level: int, whole: bytes) -> None:
        if self.alert == CONTINUE:
            self.messages.append((level, whole))
            self.alert = self.side.feed(level, whole)

    def first(self, kind: int) -> bytes:
        return next(whole for _, whole in self.messages if whole[0] == kind)


@dataclass
class Connection:
    """Both sides over one pair of streams."""

    client: ClientHandshake
    server: ServerHandshake
    to_server: Receiver
    to_client: Receiver
    client_stream: Stream
    server_stream: Stream
    sessions: list[Session]


def connect(
    policy: ServerPolicy, tamper: Callable[[bytes], bytes] = lambda whole: whole, **client_options: Any
) -> Connection:
    """Run a handshake to its end. *tamper* may change what the server receives."""
    client_stream, server_stream = Stream(), Stream()
    ours: HandshakeTransport = client_stream
    theirs: HandshakeTransport = server_stream
    sessions: list[Session] = []
    client_options.setdefault("alpn", (b"h2", b"http/1.1"))
    client = ClientHandshake(support.client(**client_options), ours, None, on_session=sessions.append)
    server = ServerHandshake(policy, theirs, None)
    both = Connection(client, server, Receiver(server), Receiver(client), client_stream, server_stream, sessions)
    client.start()
    while (client_stream.sent or server_stream.sent) and both.to_server.alert == both.to_client.alert == CONTINUE:
        flight, client_stream.sent = bytes(client_stream.sent), bytearray()
        both.to_server.take(flight, tamper)
        flight, server_stream.sent = bytes(server_stream.sent), bytearray()
        both.to_client.take(flight, lambda whole: whole)
    return both


def tcp_policy(**options: Any) -> ServerPolicy:
    return support.policy(alpn=("h2", "http/1.1"), **options)


def assert_agreed(both: Connection) -> None:
    assert both.to_server.alert == both.to_client.alert == CONTINUE
    assert both.client.done
    assert both.server.done
    for level in (Level.HANDSHAKE, Level.ONE_RTT):
        for write in (True, False):
            assert both.client_stream.keys[write, level] == both.server_stream.keys[not write, level]


def test_both_sides_agree_without_transport_parameters() -> None:
    both = connect(tcp_policy())
    assert_agreed(both)
    assert both.client.alpn == both.server.alpn == "h2"
    assert both.server.group == kex.X25519_MLKEM768
    hello = parse_client_hello(both.to_server.first(codec.CLIENT_HELLO))
    assert codec.EXT_QUIC_PARAMETERS not in hello.extensions
    found = parse_encrypted_extensions(both.to_client.first(codec.ENCRYPTED_EXTENSIONS))
    assert found.keys() == {codec.EXT_ALPN}


def test_a_client_that_brings_the_wrong_share_is_asked_again() -> None:
    both = connect(tcp_policy(), shares=(kex.X25519,))
    assert_agreed(both)
    assert both.server.retried
    assert both.server.group == kex.X25519_MLKEM768


def test_alpn_is_optional() -> None:
    both = connect(tcp_policy(), alpn=())
    assert_agreed(both)
    assert both.client.alpn == both.server.alpn == ""
    assert parse_encrypted_extensions(both.to_client.first(codec.ENCRYPTED_EXTENSIONS)) == {}


def test_alpn_that_is_offered_must_fit() -> None:
    both = connect(tcp_policy(), alpn=(b"spdy/3",))
    assert both.to_server.alert == AlertDescription.NO_APPLICATION_PROTOCOL


class AlwaysFirst:
    """A replay guard that remembers nothing."""

    def first_use(self, name: bytes, claimed_s: float, now_s: float) -> bool:
        return True


def early_options() -> dict[str, Any]:
    ring = KeyRing(first_table(bytes(32), 0.0), TICKET)
    return {"tickets": Tickets(ring), "early_data": EarlyData(b"here", AlwaysFirst())}


def test_a_session_is_resumed_without_early_data() -> None:
    policy = tcp_policy(**early_options())
    [session] = connect(policy).sessions
    assert not session.early_data
    both = connect(policy, session=session, early_data=True)
    assert_agreed(both)
    assert both.server.resumed
    assert not both.server.early_data_accepted


@pytest.mark.parametrize("quic", [True, False])
def test_early_data_is_accepted_in_quic_only(quic: bool) -> None:
    policy = support.policy(**early_options())
    [session] = support.run(policy).sessions
    pair = support.run(policy, support.client(session=session, early_data=True))
    assert pair.server.early_data_accepted
    hello = parse_client_hello(pair.messages[0][2])
    choice = choices.choose(policy, hello, quic=True)
    found = choices.resume(policy, hello, choice, b"", time.time(), quic=quic)
    assert found is not None
    assert found.early_data is quic


def changed(whole: bytes, session_id: bytes = b"", more: bytes = b"") -> bytes:
    """Return a ClientHello (of `codec_client`, which has no session id) with a session id and one more extension."""
    if whole[0] != codec.CLIENT_HELLO:
        return whole
    body = whole[4:]
    suites_end = 35 + 2 + int.from_bytes(body[35:37], "big")
    block = body[suites_end + 2 + 2 :]
    return message(
        codec.CLIENT_HELLO,
        body[:34] + opaque(session_id, 1) + body[35 : suites_end + 2] + opaque(block + more, 2),
    )


def test_the_session_id_of_middlebox_compatibility_is_echoed() -> None:
    both = connect(tcp_policy(), lambda whole: changed(whole, session_id=b"s" * 32))
    server_hello = both.to_client.first(codec.SERVER_HELLO)
    assert server_hello[38:71] == b"\x20" + b"s" * 32
    # Our client sent none and says so; a client that sent it goes on.
    assert both.to_client.alert == AlertDescription.ILLEGAL_PARAMETER


def test_transport_parameters_without_quic_are_refused() -> None:
    parameters = extension(codec.EXT_QUIC_PARAMETERS, b"")
    both = connect(tcp_policy(), lambda whole: changed(whole, more=parameters))
    assert both.to_server.alert == AlertDescription.UNSUPPORTED_EXTENSION


@pytest.mark.parametrize(
    ("quic", "found", "alert"),
    [
        (False, {codec.EXT_QUIC_PARAMETERS: b""}, AlertDescription.UNSUPPORTED_EXTENSION),
        (True, {codec.EXT_ALPN: opaque(opaque(b"h2", 1), 2)}, AlertDescription.MISSING_EXTENSION),
        (True, {codec.EXT_QUIC_PARAMETERS: b""}, AlertDescription.NO_APPLICATION_PROTOCOL),
    ],
)
def test_a_client_refuses_what_does_not_fit_the_transport(
    quic: bool, found: dict[int, bytes], alert: AlertDescription
) -> None:
    with pytest.raises(Alert) as raised:
        client_checks.encrypted_extensions(found, alpn=(b"h2",), early_data=False, resumed=False, quic=quic)
    assert raised.value.description == alert


@pytest.mark.parametrize(("more", "offered"), [(b"", False), (extension(0xFE0D, b"\0" * 40), True)])
def test_encrypted_client_hello_is_noted_and_ignored(more: bytes, offered: bool) -> None:
    both = connect(tcp_policy(), lambda whole: changed(whole, more=more))
    assert both.to_server.alert == CONTINUE
    assert both.server.ech_offered is offered
