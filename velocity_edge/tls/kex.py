"""Key exchange groups: ML-KEM hybrids and the classical curves, both sides.

    group                 client's share              server's share             secret
    X25519MLKEM768        ek 1184 | X25519 32         ct 1088 | X25519 32        ML-KEM 32 | ECDH 32
    SecP256r1MLKEM768     P-256 65 | ek 1184          P-256 65 | ct 1088         ECDH 32 | ML-KEM 32
    SecP384r1MLKEM1024    P-384 97 | ek 1568          P-384 97 | ct 1568         ECDH 48 | ML-KEM 32

The order differs: ML-KEM comes first only in X25519MLKEM768; the NIST-curve hybrids put ECDH first, in
share and secret (RFC 10024; checked against OpenSSL, Go and Chromium). A server encapsulates to the client's key, so
there is no symmetric "exchange" for both kinds; hence `start`, `finish` (client) and `respond` (server).

`Kem` hides the implementation of ML-KEM: the `cryptography` package here, liboqs in kem_oqs.py. Shares of another form
raise `Alert` illegal_parameter. policy.py decides which groups a server offers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from velocity_edge.tls.alerts import illegal_parameter

SECP256R1: Final = 0x0017
SECP384R1: Final = 0x0018
X25519: Final = 0x001D
SECP256R1_MLKEM768: Final = 0x11EB
X25519_MLKEM768: Final = 0x11EC
SECP384R1_MLKEM1024: Final = 0x11ED


class Kem(Protocol):
    """A key encapsulation mechanism. Sizes in bytes; the shared secret always has 32."""

    name: str
    encapsulation_key_bytes: int
    ciphertext_bytes: int

    def generate(self) -> tuple[Any, bytes]:
        """Return (decapsulation key, encapsulation key)."""

    def encapsulate(self, encapsulation_key: bytes) -> tuple[bytes, bytes]:
        """Return (ciphertext, secret). Raises ValueError for a key that fails FIPS 203's modulus check."""

    def decapsulate(self, decapsulation_key: Any, ciphertext: bytes) -> bytes:
        """Return the secret; a forged ciphertext of the right length gives a random one (implicit rejection)."""


class _CryptographyKem:
    def __init__(self, name: str, private: Any, public: Any, key_bytes: int, ciphertext_bytes: int) -> None:
        self.name = name
        self.encapsulation_key_bytes = key_bytes
        self.ciphertext_bytes = ciphertext_bytes
        self._generate: Callable[[], Any] = private.generate
        self._load: Callable[[bytes], Any] = public.from_public_bytes

    def generate(self) -> tuple[Any, bytes]:
        key = self._generate()
        return key, key.public_key().public_bytes_raw()

    def encapsulate(self, encapsulation_key: bytes) -> tuple[bytes, bytes]:
        secret, ciphertext = self._load(encapsulation_key).encapsulate()
        return ciphertext, secret

    def decapsulate(self, decapsulation_key: Any, ciphertext: bytes) -> bytes:
        secret: bytes = decapsulation_key.decapsulate(ciphertext)
        return secret


MLKEM768: Final[Kem] = _CryptographyKem("ML-KEM-768", mlkem.MLKEM768PrivateKey, mlkem.MLKEM768PublicKey, 1184, 1088)
MLKEM1024: Final[Kem] = _CryptographyKem("ML-KEM-1024", mlkem.MLKEM1024PrivateKey, mlkem.MLKEM1024PublicKey, 1568, 1568)


class DiffieHellman(Protocol):
    """The classical half: both shares have the same size."""

    share_bytes: int

    def generate(self) -> tuple[Any, bytes]:
        """Return (private key, share)."""

    def agree(self, private: Any, peer: bytes) -> bytes:
        """Return the secret. Raises ValueError for a share that is not a valid public key."""


class _X25519:
    share_bytes = 32

    def generate(self) -> tuple[x25519.X25519PrivateKey, bytes]:
        private = x25519.X25519PrivateKey.generate()
        return private, private.public_key().public_bytes_raw()

    def agree(self, private: x25519.X25519PrivateKey, peer: bytes) -> bytes:
        # exchange() raises ValueError for an all-zero result (RFC 8446 section 7.4.2).
        return private.exchange(x25519.X25519PublicKey.from_public_bytes(peer))


class _NistCurve:
    def __init__(self, curve: ec.EllipticCurve, share_bytes: int) -> None:
        self.share_bytes = share_bytes
        self._curve = curve
        self._ecdh = ec.ECDH()

    def generate(self) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        private = ec.generate_private_key(self._curve)
        return private, private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def agree(self, private: ec.EllipticCurvePrivateKey, peer: bytes) -> bytes:
        # TLS 1.3 has only uncompressed points (RFC 8446 section 4.2.8.2); the exact length leaves no other form.
        return private.exchange(self._ecdh, ec.EllipticCurvePublicKey.from_encoded_point(self._curve, peer))


@dataclass(frozen=True, slots=True)
class Group:
    """A named group. `kem` is None for a classical one."""

    id: int
    name: str
    dh: DiffieHellman
    kem: Kem | None = None
    kem_first: bool = False

    @property
    def post_quantum(self) -> bool:
        """Whether an attacker has to break ML-KEM, too."""
        return self.kem is not None

    def start(self) -> tuple[Any, bytes]:
        """Client: return (private state, share)."""
        private, share = self.dh.generate()
        if self.kem is None:
            return (private, None), share
        key, encapsulation_key = self.kem.generate()
        return (private, key), self._join(encapsulation_key, share)

    def finish(self, state: Any, share: bytes) -> bytes:
        """Client: return the secret from our state and the server's share."""
        private, key = state
        try:
            if self.kem is None:
                self._check(share, self.dh.share_bytes)
                return self.dh.agree(private, share)
            ciphertext, peer = self._split(share, self.kem.ciphertext_bytes)
            return self._join(self.kem.decapsulate(key, ciphertext), self.dh.agree(private, peer))
        except ValueError as error:
            raise illegal_parameter(f"{self.name} share of the server: {error}") from None

    def respond(self, share: bytes) -> tuple[bytes, bytes]:
        """Server: return (our share, secret) for a client's share."""
        try:
            if self.kem is None:
                self._check(share, self.dh.share_bytes)
                private, ours = self.dh.generate()
                return ours, self.dh.agree(private, share)
            encapsulation_key, peer = self._split(share, self.kem.encapsulation_key_bytes)
            private, ours = self.dh.generate()
            agreed = self.dh.agree(private, peer)
            ciphertext, secret = self.kem.encapsulate(encapsulation_key)
        except ValueError as error:
            raise illegal_parameter(f"{self.name} share of the client: {error}") from None
        return self._join(ciphertext, ours), self._join(secret, agreed)

    def _check(self, share: bytes, wanted: int) -> None:
        if len(share) != wanted:
            raise ValueError(f"{len(share)} bytes, expected {wanted}")

    def _split(self, share: bytes, kem_bytes: int) -> tuple[bytes, bytes]:
        """Return (ML-KEM part, ECDH part)."""
        self._check(share, kem_bytes + self.dh.share_bytes)
        if self.kem_first:
            return share[:kem_bytes], share[kem_bytes:]
        return share[self.dh.share_bytes :], share[: self.dh.share_bytes]

    def _join(self, kem_part: bytes, dh_part: bytes) -> bytes:
        return kem_part + dh_part if self.kem_first else dh_part + kem_part


def groups(mlkem768: Kem = MLKEM768, mlkem1024: Kem = MLKEM1024) -> Mapping[int, Group]:
    """Return all groups by id, with ML-KEM computed by the given providers."""
    x, p256, p384 = _X25519(), _NistCurve(ec.SECP256R1(), 65), _NistCurve(ec.SECP384R1(), 97)
    every = (
        Group(X25519_MLKEM768, "X25519MLKEM768", x, mlkem768, kem_first=True),
        Group(SECP256R1_MLKEM768, "SecP256r1MLKEM768", p256, mlkem768),
        Group(SECP384R1_MLKEM1024, "SecP384r1MLKEM1024", p384, mlkem1024),
        Group(X25519, "x25519", x),
        Group(SECP256R1, "secp256r1", p256),
        Group(SECP384R1, "secp384r1", p384),
    )
    return {group.id: group for group in every}


GROUPS: Final = groups()


def group_name(group_id: int) -> str:
    """Return the IANA name of a group, or its number in hex."""
    group = GROUPS.get(group_id)
    return group.name if group is not None else f"0x{group_id:04x}"
