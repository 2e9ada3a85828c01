"""What a client offers and trusts, and what it keeps of a server to resume. client.py works with these values."""

from __future__ import annotations

from dataclasses import dataclass, field

from velocity_edge.pki import signatures
from velocity_edge.tls import kex, schedule
from velocity_edge.tls.trust import Trust


@dataclass(frozen=True, slots=True)
class Session:
    """What a client keeps to resume: of one server name, one cipher suite."""

    ticket: bytes = field(repr=False)
    secret: bytes = field(repr=False)
    suite_id: int
    age_add: int
    received_s: float
    lifetime_s: int
    server_name: str
    early_data: bool
    #: The server's transport parameters, under which early data is sent.
    parameters: bytes

    def usable(self, server_name: str, now_s: float) -> bool:
        """Whether it can be offered to *server_name* now (wall time)."""
        return self.server_name == server_name and 0 <= now_s - self.received_s < self.lifetime_s

    def obfuscated_age_ms(self, now_s: float) -> int:
        """Return the age as a ClientHello has it (RFC 8446 section 4.2.11.1)."""
        return (int((now_s - self.received_s) * 1000) + self.age_add) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """What a client offers and trusts. Sequences are in order of preference."""

    server_name: str
    groups: tuple[int, ...] = tuple(kex.GROUPS)
    #: Groups whose shares are in the first hello; any other costs a round trip.
    shares: tuple[int, ...] = (kex.X25519_MLKEM768, kex.X25519)
    suites: tuple[int, ...] = (schedule.AES_128_GCM, schedule.AES_256_GCM, schedule.CHACHA20_POLY1305)
    signature_schemes: tuple[int, ...] = signatures.ALL_SCHEMES
    alpn: tuple[bytes, ...] = (b"h3",)
    trust: Trust = field(default_factory=Trust)
    session: Session | None = None
    #: Send early data when the session allows it.
    early_data: bool = False
    padding_bytes: int = 0
