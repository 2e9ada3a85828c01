"""Server and client agree on keys, group, suite and chain, in every combination, or one reports the error.

Both sides derive every secret on their own, so equal secrets mean equal transcripts and key exchanges. That both are
not wrong in the same way is what test_against_aioquic.py and tests/interop are for.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from tests.support import tls as support
from tests.support.tls import Pair
from velocity_edge.keys import rotation
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import EpochTable, first_table
from velocity_edge.pki import signatures
from velocity_edge.tls import certs, kex, schedule
from velocity_edge.tls.alerts import AlertDescription
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.replay import EarlyData
from velocity_edge.tls.tickets import Tickets
from velocity_edge.tls.transport import Level
from velocity_edge.tls.trust import Trust

TABLE = first_table(b"r" * 32, 0.0)


def tickets(table: EpochTable = TABLE) -> Tickets:
    return Tickets(KeyRing(table, TICKET))


def assert_agreed(pair: Pair) -> None:
    assert pair.alert is None, (pair.alert, pair.client.alert_reason, pair.server.alert_reason)
    assert pair.client.done
    assert pair.server.done
    ours, theirs = pair.server_transport.keys, pair.client_transport.keys
    for (write, level), (suite, secret) in ours.items():
        assert theirs[not write, level] == (suite, secret)
    assert {level for _, level in ours} >= {Level.HANDSHAKE, Level.ONE_RTT}
    assert len({secret for _, secret in ours.values()}) == len(ours)
    for name in ("alpn", "group", "cipher_suite", "signature_scheme", "resumed", "retried", "early_data_accepted"):
        assert getattr(pair.client, name) == getattr(pair.server, name), name
    assert pair.server_transport.peer == b"\x01\x01\x07"
    assert pair.client_transport.peer == b"\x01\x01\x09"


@pytest.mark.parametrize(
    ("group", "suite", "retry", "resume"), list(itertools.product(kex.GROUPS, schedule.SUITES, [0, 1], [0, 1]))
)
def test_every_group_suite_retry_and_resumption(group: int, suite: int, retry: int, resume: int) -> None:
    server = support.policy(tickets=tickets())
    options = {"groups": (group,), "shares": () if retry else (group,), "suites": (suite,)}
    session = None
    if resume:
        first = support.run(server, support.client(**options))
        assert_agreed(first)
        [session] = first.sessions
    pair = support.run(server, support.client(**options, session=session))
    assert_agreed(pair)
    assert pair.server.group == group
    assert pair.server.cipher_suite == suite
    assert pair.server.resumed == bool(resume)
    assert pair.server.retried == bool(retry)
    assert pair.server.signature_scheme == (0 if resume else signatures.ECDSA_P256_SHA256)
    assert len(pair.client.certificates) == (0 if resume else 1)


@pytest.mark.parametrize("kind", list(support.KEYS))
def test_every_kind_of_certificate(kind: str) -> None:
    trust = Trust(roots_pem=support.authority(kind).root_pem)
    pair = support.run(support.policy(support.chain(kind)), support.client(trust=trust))
    assert_agreed(pair)
    assert pair.client.signature_scheme == support.chain(kind).schemes[0]


class TestGroups:
    """The server's preference decides, and a post-quantum group is worth a round trip."""

    def test_server_preference_precedes_the_order_of_shares(self) -> None:
        pair = support.run(
            support.policy(),
            support.client(groups=(kex.X25519, kex.X25519_MLKEM768), shares=(kex.X25519, kex.X25519_MLKEM768)),
        )
        assert_agreed(pair)
        assert pair.server.group == kex.X25519_MLKEM768

    def test_retry_to_reach_post_quantum(self) -> None:
        pair = support.run(support.policy(), support.client(shares=(kex.X25519,)))
        assert_agreed(pair)
        assert (pair.server.group, pair.server.retried) == (kex.X25519_MLKEM768, True)

    def test_no_retry_from_one_post_quantum_group_to_another(self) -> None:
        pair = support.run(support.policy(), support.client(shares=(kex.SECP384R1_MLKEM1024,)))
        assert_agreed(pair)
        assert (pair.server.group, pair.server.retried) == (kex.SECP384R1_MLKEM1024, False)

    def test_no_retry_for_a_classical_client(self) -> None:
        pair = support.run(
            support.policy(), support.client(groups=(kex.SECP256R1, kex.X25519), shares=(kex.SECP256R1,))
        )
        assert_agreed(pair)
        assert (pair.server.group, pair.server.retried) == (kex.SECP256R1, False)

    def test_secure_profile_alone(self) -> None:
        policy = support.policy(default_profile="secure", permit=["secure"])
        pair = support.run(policy, support.client())
        assert_agreed(pair)
        assert pair.server.group == kex.SECP384R1_MLKEM1024
        assert pair.server.cipher_suite == schedule.AES_256_GCM


class TestResumption:
    """A ticket is accepted where key, suite, name and age fit; everything else is a full handshake, not an error."""

    def session(self, **options: object) -> object:
        pair = support.run(support.policy(tickets=tickets(), **options))
        [session] = pair.sessions
        return session

    def test_by_another_worker_with_the_same_table(self) -> None:
        pair = support.run(support.policy(tickets=tickets()), support.client(session=self.session()))
        assert_agreed(pair)
        assert pair.server.resumed

    def test_after_a_rotation(self) -> None:
        table = rotation.switch(rotation.announce(TABLE, b"s" * 32, 10.0, 86_400.0))
        pair = support.run(support.policy(tickets=tickets(table)), support.client(session=self.session()))
        assert_agreed(pair)
        assert pair.server.resumed

    def test_not_with_a_removed_epoch(self) -> None:
        table = first_table(b"x" * 32, 0.0)
        pair = support.run(support.policy(tickets=tickets(table)), support.client(session=self.session()))
        assert_agreed(pair)
        assert not pair.server.resumed

    def test_not_when_too_old(self) -> None:
        session = self.session()
        clock = session.received_s + 86_390.0  # type: ignore[attr-defined]
        server = support.policy(tickets=Tickets(KeyRing(TABLE, TICKET), lifetime_s=3600))
        pair = support.run(server, support.client(session=session), wall_clock=lambda: clock)
        assert_agreed(pair)
        assert not pair.server.resumed

    def test_not_under_another_name(self) -> None:
        session = dataclasses.replace(self.session(), server_name="other.test")  # type: ignore[type-var]
        authority = support.authority()
        policy = support.policy(authority.issue(["other.test"]), tickets=tickets())
        pair = support.run(policy, support.client(session=session, server_name="other.test"))
        assert_agreed(pair)
        assert not pair.server.resumed

    def test_not_under_another_suite(self) -> None:
        session = self.session(default_profile="secure", permit=["secure"])
        options = {"groups": (kex.X25519_MLKEM768,), "session": session}
        pair = support.run(support.policy(tickets=tickets()), support.client(**options))
        assert_agreed(pair)
        assert pair.server.cipher_suite == schedule.AES_128_GCM
        assert not pair.server.resumed

    def test_no_tickets_when_off(self) -> None:
        pair = support.run(support.policy())
        assert_agreed(pair)
        assert pair.sessions == []

    def test_tickets_are_125_bytes(self) -> None:
        session = self.session(default_profile="secure", permit=["secure"])
        assert len(session.ticket) <= 125  # type: ignore[attr-defined]


def test_the_order_of_calls_on_the_transport() -> None:
    """ngtcp2 completes the local parameters with the Handshake write key, and needs the peer's before 1-RTT."""
    pair = support.run(support.policy(tickets=tickets()))
    assert pair.server_transport.calls == [
        "peer_parameters",
        "send 0",
        "install write 1",
        "install read 1",
        "local_parameters",
        "send 1",
        "install write 2",
        "install read 2",
        "send 2",
    ]


def test_refused_transport_parameters() -> None:
    policy = support.policy()
    pair = support.run(policy)
    hello = next(m for receiver, _, m in pair.messages if receiver == "server")
    transport = support.RecordingTransport(refuse_parameters="max_udp_payload_size 3")
    server = support.server(policy, transport)
    assert server.feed(Level.INITIAL, hello) == AlertDescription.ILLEGAL_PARAMETER
    assert "max_udp_payload_size 3" in server.alert_reason
    assert transport.sent == []
    assert transport.keys == {}


class TestEarlyData:
    """0-RTT needs the right node, age, protocol and a first use. Otherwise the handshake continues in 1-RTT."""

    class Once:
        def __init__(self) -> None:
            self.seen: set[bytes] = set()

        def first_use(self, name: bytes, claimed_s: float, now_s: float) -> bool:
            return not (name in self.seen or self.seen.add(name))

    def policy(self, context: bytes = b"here", **options: object) -> ServerPolicy:
        policy = support.policy(tickets=tickets(), **options)
        return dataclasses.replace(policy, early_data=EarlyData(context, self.Once()))

    def attempt(self, later: ServerPolicy | None = None, *, after_s: float = 60.0, **options: object) -> bool:
        first = self.policy()
        [session] = support.run(first, wall_clock=lambda: 1000.0).sessions
        assert session.early_data
        client = support.client(**{"session": session, "early_data": True} | options)
        pair = support.run(later or first, client, wall_clock=lambda: 1000.0 + after_s)
        assert_agreed(pair)
        early = (False, int(Level.ZERO_RTT))
        assert (early in pair.server_transport.keys) == pair.server.early_data_accepted
        return pair.server.early_data_accepted

    def test_accepted(self) -> None:
        assert self.attempt()

    def test_not_when_off(self) -> None:
        assert not self.attempt(support.policy(tickets=tickets()))

    def test_not_from_another_node(self) -> None:
        assert not self.attempt(self.policy(b"away"))

    def test_not_after_a_retry(self) -> None:
        assert not self.attempt(shares=(kex.X25519,))

    def test_not_for_another_protocol(self) -> None:
        assert not self.attempt(self.policy(alpn=("velocity/1", "h3")), alpn=(b"velocity/1", b"h3"))

    def test_not_when_delayed(self) -> None:
        """The client's claim is signed; an attacker who holds the hello back makes it stale."""
        first = self.policy()
        [session] = support.run(first, wall_clock=lambda: 1000.0).sessions
        for delay_s, accepted in ((9.0, True), (11.0, False)):
            client = support.client(session=session, early_data=True)
            times = iter([1060.0] + [1060.0 + delay_s] * 10)
            pair = support.run(self.policy(), client, wall_clock=lambda times=times: next(times))  # type: ignore[misc]
            assert_agreed(pair)
            assert pair.server.early_data_accepted is accepted

    def test_not_twice(self) -> None:
        policy = self.policy()
        [session] = support.run(policy, wall_clock=lambda: 1000.0).sessions
        client = support.client(session=session, early_data=True)
        found = [support.run(policy, client, wall_clock=lambda: 1001.0).server.early_data_accepted for _ in range(3)]
        assert found == [True, False, False]


class TestTrust:
    """The client refuses untrusted chains, with the specific alert."""

    def refused(self, chain: certs.Chain, **options: object) -> tuple[str, int] | None:
        return support.run(support.policy(chain), support.client(**options)).alert

    def test_unknown_root(self) -> None:
        trust = Trust(roots_pem=support.authority("p384").root_pem)
        assert self.refused(support.chain("p256"), trust=trust) == ("client", AlertDescription.BAD_CERTIFICATE)

    def test_other_name(self) -> None:
        chain = support.authority().issue(["other.test"])
        assert self.refused(chain) == ("client", AlertDescription.BAD_CERTIFICATE)

    def test_expired(self) -> None:
        chain = support.authority().issue(days=-1)
        assert self.refused(chain) == ("client", AlertDescription.CERTIFICATE_EXPIRED)

    def test_insecure_accepts_all_of_them(self) -> None:
        chain = support.authority("p384").issue(["other.test"], days=-1)
        assert self.refused(chain, trust=Trust(insecure=True)) is None
