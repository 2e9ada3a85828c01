"""A server's TLS without packets: certificates, policies, and a transport that records its calls."""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from velocity_edge.tls import certs
from velocity_edge.tls.certs import Chain
from velocity_edge.tls.client import ClientHandshake
from velocity_edge.tls.client_policy import ClientPolicy, Session
from velocity_edge.tls.handshake import ServerHandshake
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.policy import server_policy as build_policy
from velocity_edge.tls.trust import Trust

NAME = "velocity.test"
KEYS = {
    "p256": functools.partial(ec.generate_private_key, ec.SECP256R1()),
    "p384": functools.partial(ec.generate_private_key, ec.SECP384R1()),
    "rsa": functools.partial(rsa.generate_private_key, 65537, 2048),
    "mldsa44": mldsa.MLDSA44PrivateKey.generate,
    "mldsa65": mldsa.MLDSA65PrivateKey.generate,
    "mldsa87": mldsa.MLDSA87PrivateKey.generate,
}


def certificate(
    subject: str, public: Any, issuer: str, issuer_key: Any, *, ca: bool, names: Sequence[str] = (), days: int = 30
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    algorithm = None if hasattr(issuer_key, "private_bytes_raw") else hashes.SHA256()
    return builder.sign(issuer_key, algorithm)


@dataclass(frozen=True)
class Authority:
    """A private root and the chains that it issued."""

    kind: str
    name: str
    key: Any
    root: x509.Certificate

    @property
    def root_pem(self) -> bytes:
        return self.root.public_bytes(Encoding.PEM)

    def issue(
        self,
        names: Sequence[str] = (NAME,),
        kind: str | None = None,
        audience: Sequence[str] | None = None,
        days: int = 30,
    ) -> Chain:
        key = KEYS[kind or self.kind]()
        leaf = certificate(names[0], key.public_key(), self.name, self.key, ca=False, names=names, days=days)
        return certs.chain(f"{kind or self.kind} for {names[0]}", [leaf], key, audience)


@functools.cache
def _authority(kind: str) -> Authority:
    key = KEYS[kind]()
    name = f"test root {kind}"
    return Authority(kind, name, key, certificate(name, key.public_key(), name, key, ca=True))


def authority(kind: str = "p256") -> Authority:
    return _authority(kind)


@functools.cache
def _chain(kind: str, audience: tuple[str, ...] | None) -> Chain:
    return authority(kind).issue(audience=audience)


def chain(kind: str = "p256", audience: tuple[str, ...] | None = None) -> Chain:
    return _chain(kind, audience)


def policy(*chains: Chain, **options: Any) -> ServerPolicy:
    return build_policy(chains or (chain(),), **options)


@dataclass
class RecordingTransport:
    """A QUIC transport of a handshake that keeps what it is told, in order."""

    parameters: bytes = b"\x01\x01\x05"
    refuse_parameters: str = ""
    peer: bytes | None = None
    keys: dict[tuple[bool, int], tuple[int, bytes]] = field(default_factory=dict)
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def local_parameters(self) -> bytes:
        self.calls.append("local_parameters")
        return self.parameters

    def peer_parameters(self, data: bytes) -> None:
        self.calls.append("peer_parameters")
        if self.refuse_parameters:
            raise ValueError(self.refuse_parameters)
        self.peer = data

    def install_key(self, write: bool, level: int, cipher_suite: int, secret: bytes) -> None:
        self.calls.append(f"install {'write' if write else 'read'} {int(level)}")
        self.keys[write, int(level)] = (cipher_suite, secret)

    def send_crypto(self, level: int, data: bytes) -> None:
        self.calls.append(f"send {int(level)}")
        self.sent.append((int(level), data))

    def take(self) -> list[tuple[int, bytes]]:
        sent, self.sent = self.sent, []
        return sent


@dataclass
class Pair:
    """Both ends of a handshake that ran to completion, or to the first alert."""

    client: ClientHandshake
    server: ServerHandshake
    client_transport: RecordingTransport
    server_transport: RecordingTransport
    sessions: list[Session]
    #: (who refused, alert), or None.
    alert: tuple[str, int] | None = None
    #: What each side received: (receiver, level, message).
    messages: list[tuple[str, int, bytes]] = field(default_factory=list)


def server(policy: ServerPolicy, transport: RecordingTransport | None = None) -> ServerHandshake:
    """Return a server's side on a QUIC transport."""
    transport = transport or RecordingTransport()
    return ServerHandshake(policy, transport, transport)


def split(data: bytes) -> list[bytes]:
    """Cut a flight into its messages."""
    found = []
    while data:
        end = 4 + int.from_bytes(data[1:4], "big")
        found.append(data[:end])
        data = data[end:]
    return found


def run(
    server_policy: ServerPolicy,
    client_policy: ClientPolicy | None = None,
    *,
    tamper: Callable[[str, int, bytes], bytes | None] = lambda receiver, level, message: message,
    wall_clock: Callable[[], float] = time.time,
) -> Pair:
    """Run a handshake. `tamper` may change each message in transit, or drop it by returning None."""
    client_transport, server_transport = RecordingTransport(b"\x01\x01\x07"), RecordingTransport(b"\x01\x01\x09")
    sessions: list[Session] = []
    ours = client_policy or client()
    pair = Pair(
        ClientHandshake(ours, client_transport, client_transport, on_session=sessions.append, wall_clock=wall_clock),
        ServerHandshake(server_policy, server_transport, server_transport, wall_clock),
        client_transport,
        server_transport,
        sessions,
    )
    pair.client.start()
    while pair.alert is None and (client_transport.sent or server_transport.sent):
        for receiver, side, inbox in (
            ("server", pair.server, client_transport.take()),
            ("client", pair.client, server_transport.take()),
        ):
            for level, flight in inbox:
                for message in split(flight):
                    _deliver(pair, receiver, side, level, tamper(receiver, level, message))
    return pair


def _deliver(pair: Pair, receiver: str, side: Any, level: int, message: bytes | None) -> None:
    if message is None or pair.alert is not None:
        return
    pair.messages.append((receiver, level, message))
    alert = side.feed(level, message)
    if alert >= 0:
        pair.alert = (receiver, alert)


def client(**options: Any) -> ClientPolicy:
    options.setdefault("server_name", NAME)
    options.setdefault("trust", Trust(roots_pem=authority().root_pem))
    return ClientPolicy(**options)
