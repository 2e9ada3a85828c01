"""Stock aioquic 1.7.2 and qh3 complete handshakes with this TLS, on both sides, with all that they support.

They are the independent opinion: a mistake that our server and our client share does not survive here.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted
from aioquic.tls import CipherSuite, Group, SessionTicket, State
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support import tls as support
from velocity_edge.client.aioquic_tls import LEVELS, AioquicContext, ClientContext, aioquic_ticket
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import first_table
from velocity_edge.pki import signatures
from velocity_edge.tls import kex
from velocity_edge.tls.client_policy import ClientPolicy, Session
from velocity_edge.tls.handshake import ServerHandshake
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.replay import EarlyData
from velocity_edge.tls.tickets import Tickets

CLIENT, SERVER = ("127.0.0.1", 1000), ("127.0.0.1", 2000)


class ServerContext(AioquicContext):
    """Our server's handshake under aioquic's connection."""

    def __init__(self, context: Any, policy: ServerPolicy) -> None:
        super().__init__(context, policy.max_message_bytes)
        self.handshake = ServerHandshake(policy, self, self)

    @property
    def state(self) -> Any:
        return State.SERVER_POST_HANDSHAKE if self.handshake.done else State.SERVER_EXPECT_CLIENT_HELLO


class Leveled(QuicConnection):
    """A connection that tells its TLS at which level bytes arrive."""

    def _handle_crypto_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        self.tls.level = LEVELS[context.epoch]
        super()._handle_crypto_frame(context, frame_type, buf)


class OurServer(Leveled):
    def __init__(self, policy: ServerPolicy, client: Any) -> None:
        self._policy = policy
        configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
        # QuicConnection insists on a certificate; ours come from the policy.
        configuration.certificate = policy.certs.chains[0].certificates[0]
        configuration.private_key = object()  # type: ignore[assignment]
        super().__init__(
            configuration=configuration, original_destination_connection_id=client.original_destination_connection_id
        )

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls = ServerContext(self.tls, self._policy)


class OurClient(Leveled):
    def __init__(self, policy: ClientPolicy) -> None:
        self._policy = policy
        self.sessions: list[Session] = []
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=policy.server_name)
        if policy.session is not None and policy.early_data:
            configuration.session_ticket = aioquic_ticket(policy.session)
        super().__init__(configuration=configuration)

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls = ClientContext.adopt(self.tls, self._policy, self.sessions.append)


class StockClient(QuicConnection):
    """aioquic has no public way to choose its groups."""

    def __init__(self, groups: list[Group] | None = None, tickets: list[SessionTicket] | None = None, **options: Any):
        self._groups = groups
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=H3_ALPN, server_name=support.NAME, cadata=support.authority().root_pem
        )
        for name, value in options.items():
            setattr(configuration, name, value)
        super().__init__(
            configuration=configuration, session_ticket_handler=None if tickets is None else tickets.append
        )

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._groups is not None:
            self.tls._supported_groups = self._groups


def talk(client: Any, server: Any) -> None:
    client.connect(SERVER, now=0.0)
    now = 0.0
    for _ in range(8):
        for sender, receiver, address in ((client, server, CLIENT), (server, client, SERVER)):
            now += 0.01
            for data, _ in sender.datagrams_to_send(now=now):
                receiver.receive_datagram(data, address, now=now)


def connect(policy: ServerPolicy, **options: Any) -> tuple[QuicConnection, OurServer]:
    client = StockClient(**options)
    server = OurServer(policy, client)
    talk(client, server)
    return client, server


def completed(connection: QuicConnection) -> bool:
    found = False
    while (event := connection.next_event()) is not None:
        found = found or isinstance(event, HandshakeCompleted)
    return found and not closed_with(connection)


def closed_with(connection: QuicConnection) -> int:
    """The error code; the event itself comes only after the draining period."""
    return connection._close_event.error_code if connection._close_event is not None else 0


class TestStockClient:
    """aioquic's client and our server."""

    @pytest.mark.parametrize("suite", list(CipherSuite)[:3])
    def test_every_suite(self, suite: CipherSuite) -> None:
        client, server = connect(support.policy(), cipher_suites=[suite])
        assert completed(client)
        assert completed(server)
        assert server.tls.handshake.cipher_suite == suite

    @pytest.mark.parametrize(
        ("group", "expected"),
        [(Group.X25519, kex.X25519), (Group.SECP256R1, kex.SECP256R1), (Group.SECP384R1, kex.SECP384R1)],
    )
    def test_every_classical_group(self, group: Group, expected: int) -> None:
        client, server = connect(support.policy(), groups=[group])
        assert completed(client)
        assert server.tls.handshake.group == expected
        assert not server.tls.handshake.retried

    def test_a_group_that_is_not_permitted_is_handshake_failure(self) -> None:
        client, _ = connect(support.policy(), groups=[Group.SECP521R1])
        assert closed_with(client) == 0x128

    def test_required_pq_refuses_it(self) -> None:
        policy = support.policy(permit=["light", "balanced", "secure"])
        assert all(group.post_quantum for group in policy.groups)
        client, _ = connect(policy)
        assert closed_with(client) == 0x128

    @pytest.mark.parametrize("kind", ["p384", "rsa"])
    def test_other_keys(self, kind: str) -> None:
        client, server = connect(support.policy(support.chain(kind)), cadata=support.authority(kind).root_pem)
        assert completed(client)
        assert completed(server)

    def test_resumption(self) -> None:
        policy = support.policy(tickets=Tickets(KeyRing(first_table(b"r" * 32, 0.0), TICKET)))
        tickets: list[SessionTicket] = []
        connect(policy, tickets=tickets)
        client, server = connect(policy, session_ticket=tickets[0])
        assert completed(client)
        assert client.tls.session_resumed
        assert server.tls.handshake.resumed


class TestStockServer:
    """Our client and aioquic's server."""

    def server(self, client: OurClient, kind: str = "p256", **options: Any) -> QuicConnection:
        chain = support.chain(kind)
        configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN, **options)
        with tempfile.TemporaryDirectory() as directory:
            certificate, key = Path(directory, "c.pem"), Path(directory, "k.pem")
            certificate.write_bytes(chain.certificates[0].public_bytes(Encoding.PEM))
            private: Any = chain.signer._key  # type: ignore[attr-defined]
            key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            configuration.load_cert_chain(certificate, key)
        tickets: dict[bytes, SessionTicket] = getattr(self, "tickets", {})
        self.tickets = tickets
        return QuicConnection(
            configuration=configuration,
            original_destination_connection_id=client.original_destination_connection_id,
            session_ticket_handler=lambda ticket: tickets.__setitem__(ticket.ticket, ticket),
            session_ticket_fetcher=tickets.get,
        )

    @pytest.mark.parametrize("suite", list(CipherSuite)[:3])
    @pytest.mark.parametrize("group", [kex.X25519, kex.SECP256R1, kex.SECP384R1])
    def test_every_suite_and_group(self, suite: CipherSuite, group: int) -> None:
        client = OurClient(support.client(suites=(int(suite),), shares=(kex.X25519_MLKEM768, group)))
        server = self.server(client)
        talk(client, server)
        assert completed(client)
        assert completed(server)
        assert (client.tls.handshake.group, client.tls.handshake.cipher_suite) == (group, suite)
        assert client.tls.handshake.signature_scheme == signatures.ECDSA_P256_SHA256

    def test_resumption(self) -> None:
        first = OurClient(support.client())
        talk(first, self.server(first))
        second = OurClient(support.client(session=first.sessions[0]))
        server = self.server(second)
        talk(second, server)
        assert completed(second)
        assert second.tls.handshake.resumed
        assert server.tls.session_resumed


class TestOurs:
    """Both sides ours over aioquic's transport: what stock aioquic does not support."""

    def both(self, policy: ServerPolicy, **options: Any) -> tuple[OurClient, OurServer]:
        client = OurClient(support.client(**options))
        server = OurServer(policy, client)
        talk(client, server)
        assert completed(client), client._close_event
        assert completed(server), server._close_event
        return client, server

    @pytest.mark.parametrize("group", [g.id for g in kex.GROUPS.values() if g.post_quantum])
    @pytest.mark.parametrize("retry", [False, True])
    def test_post_quantum_groups(self, group: int, retry: bool) -> None:
        client, _ = self.both(support.policy(), groups=(group,), shares=() if retry else (group,))
        assert (client.tls.handshake.group, client.tls.handshake.retried) == (group, retry)

    def test_early_data(self) -> None:
        tickets = Tickets(KeyRing(first_table(b"r" * 32, time.time()), TICKET))

        class Once:
            def __init__(self) -> None:
                self.seen: set[bytes] = set()

            def first_use(self, name: bytes, claimed_s: float, now_s: float) -> bool:
                return not (name in self.seen or self.seen.add(name))

        policy = dataclasses.replace(support.policy(tickets=tickets), early_data=EarlyData(b"node", Once()))
        first, _ = self.both(policy)
        for accepted in (True, False):
            client, _ = self.both(policy, session=first.sessions[0], early_data=True)
            assert client.tls.handshake.resumed
            assert client.tls.handshake.early_data_accepted is accepted, "a ticket opens early data once"


def test_qh3_negotiates_x25519mlkem768() -> None:
    """qh3 has a TLS and a KEM of its own (in Rust)."""
    configuration_module = pytest.importorskip("qh3.quic.configuration", reason="qh3 is not installed")
    connection_module = pytest.importorskip("qh3.quic.connection")
    client = connection_module.QuicConnection(
        configuration=configuration_module.QuicConfiguration(
            is_client=True, alpn_protocols=["h3"], server_name=support.NAME, cadata=support.authority().root_pem
        )
    )
    server = OurServer(support.policy(permit=["balanced"]), client)
    talk(client, server)
    assert completed(server)
    assert server.tls.handshake.group == kex.X25519_MLKEM768
