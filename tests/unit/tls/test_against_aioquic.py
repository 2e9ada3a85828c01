"""A stock aioquic 1.7.2 client completes a handshake with our server, for every suite and classical group it knows."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted
from aioquic.tls import CipherSuite, Group

from tests.support import tls as support
from velocity_edge.quic import kex
from velocity_edge.quic.aioquic_tls import LEVELS, ServerContext
from velocity_edge.quic.policy import ServerPolicy

CLIENT, SERVER = ("127.0.0.1", 1000), ("127.0.0.1", 2000)


class Server(QuicConnection):
    """The smallest connection that runs our TLS: what velocity_edge/quic/portable does, without its limits."""

    def __init__(self, policy: ServerPolicy, **options: Any) -> None:
        self._policy = policy
        configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
        # QuicConnection insists on a certificate; ours come from the policy.
        configuration.certificate = policy.certs.chains[0].certificates[0]
        configuration.private_key = object()  # type: ignore[assignment]
        super().__init__(configuration=configuration, **options)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls = ServerContext.adopt(self.tls, self._policy)

    def _handle_crypto_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        self.tls.level = LEVELS[context.epoch]
        super()._handle_crypto_frame(context, frame_type, buf)


class Client(QuicConnection):
    """A stock client; aioquic has no public way to choose its groups."""

    def __init__(self, groups: list[Group] | None, **options: Any) -> None:
        self._groups = groups
        super().__init__(**options)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._groups is not None:
            self.tls._supported_groups = self._groups


def connect(policy: ServerPolicy, **client_options: Any) -> tuple[QuicConnection, Server]:
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name=support.NAME, cadata=support.authority().root_pem
    )
    groups = client_options.pop("groups", None)
    for name, value in client_options.items():
        setattr(configuration, name, value)
    client = Client(groups, configuration=configuration)
    server = Server(policy, original_destination_connection_id=client.original_destination_connection_id)
    client.connect(SERVER, now=0.0)
    now = 0.0
    for _ in range(6):
        for sender, receiver, address in ((client, server, CLIENT), (server, client, SERVER)):
            now += 0.01
            for data, _ in sender.datagrams_to_send(now=now):
                receiver.receive_datagram(data, address, now=now)
    return client, server


def completed(connection: QuicConnection) -> bool:
    found = False
    while (event := connection.next_event()) is not None:
        found = found or isinstance(event, HandshakeCompleted)
    return found and not closed_with(connection)


def closed_with(connection: QuicConnection) -> int:
    """The error code; the event itself comes only after the draining period."""
    return connection._close_event.error_code if connection._close_event is not None else 0


@pytest.mark.parametrize("suite", list(CipherSuite)[:3])
def test_every_suite(suite: CipherSuite) -> None:
    client, server = connect(support.policy(), cipher_suites=[suite])
    assert completed(client)
    assert completed(server)
    assert server.tls.handshake.cipher_suite == suite


@pytest.mark.parametrize(
    ("group", "expected"),
    [(Group.X25519, kex.X25519), (Group.SECP256R1, kex.SECP256R1), (Group.SECP384R1, kex.SECP384R1)],
)
def test_every_classical_group(group: Group, expected: int) -> None:
    client, server = connect(support.policy(), groups=[group])
    assert completed(client)
    assert server.tls.handshake.group == expected
    assert not server.tls.handshake.retried


def test_a_group_we_refuse_is_handshake_failure() -> None:
    client, _ = connect(support.policy(), groups=[Group.SECP521R1])
    assert closed_with(client) == 0x128


def test_required_pq_refuses_a_classical_client() -> None:
    policy = support.policy(permit=["light", "balanced", "secure"])
    assert policy.requires_pq
    client, _ = connect(policy)
    assert closed_with(client) == 0x128


@pytest.mark.parametrize("kind", ["p384", "rsa"])
def test_other_keys(kind: str) -> None:
    client, server = connect(support.policy(support.chain(kind)), cadata=support.authority(kind).root_pem)
    assert completed(client)
    assert completed(server)
