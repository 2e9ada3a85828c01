"""With any group, path and token, clients of other implementations get their answer or a specific error."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.tls import CipherSuite

from tests.support import tls as tls_support
from tests.support.engine_driver import ROOT, SERVER, World
from tests.support.our_client import OurClient
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import first_table
from velocity_edge.quic.datagrams import Ignore, Refuse, Train
from velocity_edge.quic.limits import Limits
from velocity_edge.tls import kex, schedule
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.tickets import Tickets
from velocity_edge.wire.cid import CID_LENGTH

Make = Callable[..., World]


def test_a_stock_client_is_served(world: Make) -> None:
    w = world()
    client = w.ready()
    response = client.fetch("/bytes/1000")
    assert (response.status, len(response.body)) == (200, 1000)
    [done] = w.app.handshakes
    assert done.alpn == "h3"
    assert done.server_name == tls_support.NAME
    assert done.group == kex.X25519
    assert not done.resumed
    assert done.peer == client.address
    assert w.verdicts().keys() == {"accepted", "delivered"}


@pytest.mark.parametrize("group", kex.GROUPS, ids=lambda group: kex.group_name(group))
def test_each_group_is_agreed_when_its_share_is_sent(world: Make, group: int) -> None:
    w = world()
    client = OurClient.connected(w, groups=(group,), shares=(group,))
    assert client.fetch("/bytes/10").status == 200
    assert client.tls.group == w.app.handshakes[0].group == group
    assert not client.tls.retried


@pytest.mark.parametrize("group", kex.GROUPS, ids=lambda group: kex.group_name(group))
def test_a_retry_request_asks_for_each_group(world: Make, group: int) -> None:
    other = kex.X25519 if group != kex.X25519 else kex.SECP256R1
    w = world(policy=_only(group))
    client = OurClient.connected(w, groups=(other, group), shares=(other,))
    assert client.tls.group == group
    assert client.tls.retried
    assert w.counters()["hello_retry_requests"] == 1


def _only(group: int) -> ServerPolicy:
    return replace(tls_support.policy(), groups=(kex.GROUPS[group],))


@pytest.mark.parametrize(
    "suite", [CipherSuite.AES_128_GCM_SHA256, CipherSuite.AES_256_GCM_SHA384, CipherSuite.CHACHA20_POLY1305_SHA256]
)
def test_each_cipher_suite_carries_data(world: Make, suite: CipherSuite) -> None:
    w = world()
    client = w.ready(cipher_suites=[suite])
    assert client.fetch("/bytes/50000").done
    assert w.app.handshakes[0].cipher_suite == suite


@pytest.mark.parametrize("kind", ["mldsa44", "mldsa65", "mldsa87"])
def test_a_post_quantum_flight_of_many_packets_arrives(world: Make, kind: str) -> None:
    w = world(policy=tls_support.policy(tls_support.chain(kind)))
    client = OurClient.connected(w)
    assert w.app.handshakes[0].signature_scheme in (0x0904, 0x0905, 0x0906)
    assert client.fetch("/bytes/10").status == 200


def test_no_common_group_is_refused_with_an_alert(world: Make) -> None:
    w = world(policy=_only(kex.X25519_MLKEM768))
    client = w.connect()
    w.run(lambda: client.terminated is not None)
    assert client.terminated.error_code == 0x100 + 40
    assert w.app.closed[0].handshake_completed is False
    assert w.counters()["handshakes_failed"] == 1


def test_no_common_alpn_is_refused_with_an_alert(world: Make) -> None:
    w = world()
    client = w.connect(alpn="nothing")
    w.run(lambda: client.terminated is not None)
    assert client.terminated.error_code == 0x100 + 120


@pytest.mark.parametrize("seed", range(8))
def test_a_handshake_completes_despite_loss_and_reordering(world: Make, seed: int) -> None:
    w = world(loss=0.12, reorder=0.3, duplicate=0.1, seed=seed)
    client = w.ready()
    response = client.fetch("/bytes/60000", seconds=300)
    assert (response.status, len(response.body)) == (200, 60000)


def test_retry_validates_the_address_and_issues_an_id(world: Make) -> None:
    w = world(limits=Limits(retry_threshold=0))
    client = w.ready()
    assert client.fetch("/bytes/10").status == 200
    assert client.quic._retry_count == 1
    assert w.verdicts()["retried"] == 1
    owner = w.codec.open(client.quic._peer_cid.cid)
    assert (owner.worker_id, len(client.quic._peer_cid.cid)) == (w.worker_id, CID_LENGTH)


def test_a_retry_token_of_another_address_is_refused(world: Make) -> None:
    w = world(limits=Limits(retry_threshold=0))
    client = w.connect()
    w.run(lambda: "retried" in w.verdicts())
    client.paused = True
    w.run(lambda: client.quic._retry_count == 1)
    w.move(client.address, (b"\xc6\x33\x64\x01", 9))
    client.paused = False
    w.run(lambda: client.terminated is not None, seconds=5)
    assert client.terminated.error_code == 0x0B
    assert w.verdicts()["refused"] >= 1


def test_a_new_token_avoids_the_retry_of_the_next_connection(world: Make) -> None:
    w = world()
    client = w.ready()
    client.fetch("/bytes/10")
    [token] = client.tokens
    w.hooks.admission.limits = Limits(retry_threshold=0)
    again = w.connect(token=token)
    w.move(again.address, client.address)
    w.run(lambda: again.ready)
    assert again.quic._retry_count == 0
    assert w.hooks.initials[-1].token == token


@pytest.mark.parametrize(
    "order", ["12", "21", "2211", "1122", "2121", "123", "132", "213", "231", "312", "321", "332211"]
)
def test_datagrams_of_a_hello_may_come_in_any_order(world: Make, order: str) -> None:
    """A post-quantum hello has two or three datagrams, and the network may reorder and duplicate them."""
    w = world()
    client = OurClient(w, w.address(), padding_bytes=1100 if "3" in order else 0)
    w.attach(client.address, client)
    client.start()
    datagrams = [datagram for datagram, _ in client.quic.datagrams_to_send(w.now_ns / 1e9)]
    assert len(datagrams) == len(set(order))
    for number in order:
        w.inject(client.address, datagrams[int(number) - 1])
    # Two round trips at most: the client's own patience (PTO) is not what helps.
    assert w.run(lambda: client.tls.done or client.terminated is not None, seconds=4.5 * w.delay_ns / 1e9)
    assert client.terminated is None
    assert client.quic._retry_count <= 1
    assert w.counters()["handshakes_failed"] == 0
    assert client.fetch("/bytes/1000").status == 200


def test_a_validated_address_has_no_amplification_limit(world: Make) -> None:
    """RFC 9000 section 8.1: a flight of 11 kB is sent at once, in the first round trip after the Retry."""
    policy = tls_support.policy(tls_support.chain("mldsa44"))
    w = world(limits=Limits(retry_threshold=0), policy=policy)
    client = OurClient.connect(w)
    w.run(lambda: bool(w.app.handshakes))
    assert client.quic._retry_count == 1
    # From the second hello to the client's Finished: one round trip.
    assert w.app.handshakes[0].duration_ns < 3 * w.delay_ns


def test_a_refusal_reaches_the_client(world: Make) -> None:
    w = world()
    w.hooks.admit_with = lambda initial: Refuse(0x02, "go away")
    client = w.connect()
    w.run(lambda: client.terminated is not None, seconds=5)
    assert (client.terminated.error_code, client.terminated.reason_phrase) == (0x02, "go away")
    assert w.verdicts() == {"refused": w.counters()["datagrams_received"]}


def test_an_ignored_initial_is_counted_under_its_verdict(world: Make) -> None:
    w = world()
    w.hooks.admit_with = lambda initial: Ignore("verdict_dropped_half_open")
    w.connect()
    w.run(seconds=1)
    assert w.verdicts().keys() == {"dropped_half_open"}
    assert w.sent == []


def test_the_dscp_mark_of_xdp_reaches_admission(world: Make) -> None:
    w = world()
    client = w.connect(make=QuicConnection)
    [(datagram, _), *_] = client.quic.datagrams_to_send(w.now_ns / 1e9)
    w.inject(client.address, datagram, tos=0x2F << 2)
    assert w.hooks.initials[-1].must_retry
    assert w.verdicts() == {"retried": 1}


def test_an_unknown_version_gets_version_negotiation(world: Make) -> None:
    w = world()
    client = w.connect(supported_versions=[0x1A2A3A4A, 1], version=0x1A2A3A4A)
    w.run(lambda: client.ready)
    assert client.fetch("/bytes/10").status == 200
    assert w.verdicts()["version_negotiated"] >= 1


@pytest.mark.parametrize("asked", [0x6B3343CF, 0x1A2A3A4A, 0xFF00001D])
def test_version_negotiation_lists_v1_and_a_reserved_version(world: Make, asked: int) -> None:
    """A client that starts with version 2 gets an answer; the reserved version is never the one of the client."""
    w = world(limits=Limits(max_version_negotiations_per_s=1000))
    ids = b"\x08destined\x06source"
    for first in (0xC3, 0xD3, 0xE3, 0xF3, 0x83):
        w.inject((b"\x0a\x00\x00\x09", 999), bytes([first]) + asked.to_bytes(4, "big") + ids + bytes(1200))
    w.inject((b"\x0a\x00\x00\x09", 999), b"\xd3" + asked.to_bytes(4, "big") + ids + bytes(1199 - 5 - len(ids)))
    assert w.verdicts() == {"version_negotiated": 5, "dropped_version": 1}
    reserved = set()
    for train in w.sent:
        head, versions = train.data[1:21], train.data[21:]
        assert head == bytes(4) + b"\x06source\x08destined"
        assert versions[:4] == (1).to_bytes(4, "big")
        reserved.add(int.from_bytes(versions[4:], "big"))
    assert all(version & 0x0F0F0F0F == 0x0A0A0A0A for version in reserved)
    assert asked not in reserved
    assert len(reserved) > 1


@pytest.mark.parametrize("again", ["max_idle_timeout", "grease", "a hundred others", "initial_source_connection_id"])
def test_a_repeated_transport_parameter_is_refused(world: Make, again: str) -> None:
    """RFC 9000 section 7.4: TRANSPORT_PARAMETER_ERROR."""
    w = world()

    class Twice(QuicConnection):
        def _serialize_transport_parameters(self) -> bytes:
            usual: bytes = super()._serialize_transport_parameters()
            cid = self._local_initial_source_connection_id
            return (
                usual
                + {
                    "max_idle_timeout": b"\x01\x02\x75\x30",
                    "grease": b"\x40\x5b\x01x" * 2,
                    "a hundred others": b"".join(
                        (0x4000 | 27 + 31 * n).to_bytes(2, "big") + b"\x00" for n in range(100)
                    ),
                    "initial_source_connection_id": b"\x0f" + bytes([len(cid)]) + cid,
                }[again]
            )

    client = w.connect(make=Twice)
    w.run(lambda: client.terminated is not None, seconds=5)
    assert client.terminated.error_code == 0x08


def test_unknown_transport_parameters_are_ignored(world: Make) -> None:
    """RFC 9000 sections 7.4.2 and 18.1."""
    w = world()

    class Greasing(QuicConnection):
        def _serialize_transport_parameters(self) -> bytes:
            usual: bytes = super()._serialize_transport_parameters()
            return usual + b"".join((0x4000 | 27 + 31 * n).to_bytes(2, "big") + b"\x01x" for n in range(30))

    assert w.ready(make=Greasing).fetch("/bytes/10").status == 200


def test_resumption_with_a_ticket(world: Make) -> None:
    policy = tls_support.policy(tickets=_tickets())
    w = world(policy=policy)
    first = OurClient.connected(w)
    first.fetch("/bytes/10")
    w.run(seconds=1)
    again = OurClient.connected(w, session=first.sessions[-1])
    assert again.tls.resumed
    assert again.fetch("/bytes/10").status == 200
    assert [done.resumed for done in w.app.handshakes] == [False, True]
    assert w.counters()["handshakes_resumed"] == 1


def _tickets() -> Tickets:
    return Tickets(KeyRing(first_table(ROOT, 0.0), TICKET))


def test_an_incomplete_handshake_times_out(world: Make) -> None:
    w = world(limits=Limits(handshake_timeout_s=5.0))
    client = w.connect()
    [(datagram, _), *_] = client.quic.datagrams_to_send(w.now_ns / 1e9)
    w.inject(client.address, datagram)
    assert w.half_open() == 1
    w.move(client.address, (b"\x7f\x00\x00\x63", 1))
    w._clients.clear()
    w.run(seconds=6)
    assert w.half_open() == len(w.engine.connections()) == 0
    assert w.counters()["handshakes_timed_out"] == 1


def test_an_undecryptable_initial_leaves_no_state(world: Make) -> None:
    w = world()
    noise = bytes([0xC3, 0, 0, 0, 1, 8]) + os.urandom(8) + bytes([8]) + os.urandom(8) + bytes([0, 0x44, 0x96])
    noise += os.urandom(1200 - len(noise))
    for _ in range(20):
        w.give(Train(noise, len(noise), w.address(), SERVER, 0))
    assert w.half_open() == len(w.engine.connections()) == 0
    assert w.sent == []


def test_the_suite_of_the_profile_is_preferred(world: Make) -> None:
    w = world(policy=tls_support.policy(default_profile="secure"))
    client = OurClient.connected(w)
    assert client.tls.cipher_suite == schedule.AES_256_GCM
    # Its share was sent: a round trip for a stronger hybrid is not worth it.
    assert client.tls.group == kex.X25519_MLKEM768
