"""The cost of TLS in one server handshake: our calls, no packets, no kernel, in microseconds (median of rounds).

    python -m bench.handshake

Stock is aioquic's own TLS context (x25519 only, it has no ML-KEM). "Primitives" is the same cryptography without
other code: the lower bound for any code that uses these libraries. The client's work is done before the clock starts.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

from aioquic import tls
from aioquic.buffer import Buffer

from tests.support import tls as support
from tests.support.tls import RecordingTransport
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import first_table
from velocity_edge.tls import kex, schedule
from velocity_edge.tls.chains import CertStore
from velocity_edge.tls.client import ClientHandshake
from velocity_edge.tls.client_hello import parse_client_hello
from velocity_edge.tls.client_policy import ClientPolicy, Session
from velocity_edge.tls.handshake import ServerHandshake
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.tickets import Tickets
from velocity_edge.tls.transport import Level

ROUNDS, HANDSHAKES = 9, 60
EPOCHS = {tls.Epoch.INITIAL: 4096, tls.Epoch.HANDSHAKE: 32_768, tls.Epoch.ONE_RTT: 4096}


def ours(policy: ServerPolicy, client: ClientPolicy) -> int:
    """Run one handshake; return the nanoseconds that the server's two calls took."""
    client_transport, server_transport = RecordingTransport(bytes(90)), RecordingTransport(bytes(90))
    peer = ClientHandshake(client, client_transport, client_transport)
    server = ServerHandshake(policy, server_transport, server_transport)
    peer.start()
    spent = 0
    while not server.done:
        for level, message in client_transport.take():
            begin = time.perf_counter_ns()
            alert = server.feed(level, message)
            spent += time.perf_counter_ns() - begin
            assert alert < 0, server.alert_reason
        for level, flight in server_transport.take():
            for message in support.split(flight):
                assert peer.feed(level, message) < 0, peer.alert_reason
    return spent


def stock(kind: str, suite: tls.CipherSuite) -> int:
    """The same with aioquic at both ends."""
    chain = support.chain(kind)
    parameters = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, bytes(90))]
    client = tls.Context(is_client=True, alpn_protocols=["h3"], server_name=support.NAME, verify_mode=0)
    client._supported_groups = [tls.Group.X25519]
    client._cipher_suites = [suite]
    client.handshake_extensions = parameters
    server = tls.Context(is_client=False, alpn_protocols=["h3"], cipher_suites=[suite])
    server.certificate, server.certificate_private_key = chain.certificates[0], chain.signer._key  # type: ignore[attr-defined]
    server.handshake_extensions = parameters
    server.new_session_ticket_cb = lambda ticket: None
    buffers = [{epoch: Buffer(capacity=size) for epoch, size in EPOCHS.items()} for _ in range(3)]
    client.handle_message(b"", buffers[0])
    begin = time.perf_counter_ns()
    server.handle_message(buffers[0][tls.Epoch.INITIAL].data, buffers[1])
    spent = time.perf_counter_ns() - begin
    client.handle_message(buffers[1][tls.Epoch.INITIAL].data, buffers[2])
    client.handle_message(buffers[1][tls.Epoch.HANDSHAKE].data, buffers[2])
    begin = time.perf_counter_ns()
    server.handle_message(buffers[2][tls.Epoch.HANDSHAKE].data, buffers[1])
    return spent + time.perf_counter_ns() - begin


def primitives(group: int, kind: str | None) -> int:
    """Key exchange and signature without other code."""
    _, share = kex.GROUPS[group].start()
    signer, scheme = support.chain(kind or "p256").signer, support.chain(kind or "p256").schemes[0]
    begin = time.perf_counter_ns()
    kex.GROUPS[group].respond(share)
    if kind is not None:
        signer.sign(scheme, bytes(130))
    return time.perf_counter_ns() - begin


def parse(policy: ServerPolicy) -> int:
    """A post-quantum ClientHello through the parser alone."""
    message = _hello()
    begin = time.perf_counter_ns()
    parse_client_hello(message)
    return time.perf_counter_ns() - begin


def stock_parse() -> int:
    """The same through aioquic's."""
    message = _hello()
    begin = time.perf_counter_ns()
    tls.pull_client_hello(Buffer(data=message))
    return time.perf_counter_ns() - begin


_HELLOS: list[bytes] = []


def _hello() -> bytes:
    if not _HELLOS:
        transport = RecordingTransport(bytes(90))
        ClientHandshake(support.client(), transport, transport).start()
        [(level, message)] = transport.sent
        assert level == Level.INITIAL
        _HELLOS.append(message)
    return _HELLOS[0]


def policies() -> dict[str, ServerPolicy]:
    """One policy per provider of HMAC that this machine has."""
    ring = Tickets(KeyRing(first_table(bytes(32), time.time()), TICKET))
    found = {"hashlib": support.policy(tickets=ring)}
    try:
        from velocity_edge.quic.native import hmac_sha256, hmac_sha384
    except ImportError:
        return found
    native = schedule.suites(hmac_sha256, hmac_sha384)
    return found | {"C hmac": support.policy(tickets=ring, suites=native)}


def with_chain(policy: ServerPolicy, kind: str) -> ServerPolicy:
    return dataclasses.replace(policy, certs=CertStore([support.chain(kind)]))


def session(policy: ServerPolicy, client: ClientPolicy) -> Session:
    return support.run(policy, client).sessions[0]


def cases() -> dict[str, Callable[[], int]]:
    trusting = {"trust": support.Trust(insecure=True)}
    pq = support.client(**trusting, shares=(kex.X25519_MLKEM768,))
    classical = support.client(**trusting, groups=(kex.X25519,), shares=(kex.X25519,))
    retry = support.client(**trusting, shares=(kex.X25519,))
    found: dict[str, Callable[[], int]] = {
        "ClientHello parser, aioquic": stock_parse,
        "ClientHello parser": lambda: parse(support.policy()),
        "primitives x25519, ECDSA": lambda: primitives(kex.X25519, "p256"),
        "primitives X25519MLKEM768, ECDSA": lambda: primitives(kex.X25519_MLKEM768, "p256"),
        "stock aioquic x25519, ECDSA": lambda: stock("p256", tls.CipherSuite.AES_128_GCM_SHA256),
    }
    for name, policy in policies().items():
        resumed = dataclasses.replace(pq, session=session(policy, pq))
        found |= {
            f"ours ({name}) x25519, ECDSA": lambda p=policy: ours(p, classical),  # type: ignore[misc]
            f"ours ({name}) X25519MLKEM768, ECDSA": lambda p=policy: ours(p, pq),  # type: ignore[misc]
            f"ours ({name}) X25519MLKEM768, HelloRetryRequest": lambda p=policy: ours(p, retry),  # type: ignore[misc]
            f"ours ({name}) X25519MLKEM768, resumed": lambda p=policy, r=resumed: ours(p, r),  # type: ignore[misc]
        }
    for kind in ("mldsa44", "mldsa65", "mldsa87"):
        policy = with_chain(support.policy(), kind)
        found[f"ours X25519MLKEM768, {kind}"] = lambda p=policy: ours(p, pq)  # type: ignore[misc]
    return found


def main() -> None:
    chosen = cases()
    rounds: dict[str, list[float]] = {name: [] for name in chosen}
    # Interleaved, so that other load of the machine affects all of them.
    for _ in range(ROUNDS):
        for name, run in chosen.items():
            rounds[name].append(statistics.median(run() for _ in range(HANDSHAKES)) / 1000)
    for name, medians in rounds.items():
        print(f"{name:50} {statistics.median(medians):8.1f} us   ({min(medians):.1f} to {max(medians):.1f})")


if __name__ == "__main__":
    main()
