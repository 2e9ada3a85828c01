"""The TLS 1.3 key schedule (RFC 8446 section 7). It runs about 13 HMACs per handshake on the serving loop.

Every secret here has the size of the hash, so HKDF-Expand is always one HMAC, and labels are constants: their HkdfLabel
is built once per suite. HMAC itself is two hashlib calls on a translated key, which is faster than the one-shot
`hmac.digest` (OpenSSL 3 fetches a provider on each call). A caller that has HMAC in C passes it to `suites`.

handshake.py and client.py decide which secret is derived when.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

#: hmac(key, message) -> digest. The key is never longer than a digest.
Hmac = Callable[[bytes, bytes], bytes]

AES_128_GCM: Final = 0x1301
AES_256_GCM: Final = 0x1302
CHACHA20_POLY1305: Final = 0x1303

SUITE_NAMES: Final = {
    AES_128_GCM: "TLS_AES_128_GCM_SHA256",
    AES_256_GCM: "TLS_AES_256_GCM_SHA384",
    CHACHA20_POLY1305: "TLS_CHACHA20_POLY1305_SHA256",
}

_INNER: Final = bytes(x ^ 0x36 for x in range(256))
_OUTER: Final = bytes(x ^ 0x5C for x in range(256))


def hashlib_hmac(hash_name: str) -> Hmac:
    """Return HMAC over *hash_name* for keys not longer than its block (RFC 2104)."""
    new: Callable[[bytes], Any] = getattr(hashlib, hash_name)
    block_bytes: int = new(b"").block_size

    def hmac(key: bytes, message: bytes) -> bytes:
        key = key.ljust(block_bytes, b"\0")
        inner = new(key.translate(_INNER) + message).digest()
        digest: bytes = new(key.translate(_OUTER) + inner).digest()
        return digest

    return hmac


@lru_cache(maxsize=256)
def _label_head(label: bytes, context_bytes: int, length: int) -> bytes:
    """HkdfLabel up to its context (RFC 8446 section 7.1)."""
    full = b"tls13 " + label
    return length.to_bytes(2, "big") + bytes((len(full),)) + full + bytes((context_bytes,))


class Suite:
    """A cipher suite: its hash, and the constant parts of the schedule."""

    def __init__(self, suite_id: int, hash_name: str, hmac: Hmac | None = None) -> None:
        self.id = suite_id
        self.name = SUITE_NAMES[suite_id]
        self.new_hash: Callable[..., Any] = getattr(hashlib, hash_name)
        self.digest_bytes: int = self.new_hash().digest_size
        self.hmac = hmac or hashlib_hmac(hash_name)
        self.zeros = bytes(self.digest_bytes)
        self.empty_hash: bytes = self.new_hash().digest()
        self._derived = _label_head(b"derived", self.digest_bytes, self.digest_bytes) + self.empty_hash + b"\x01"
        self._finished = _label_head(b"finished", 0, self.digest_bytes) + b"\x01"
        #: Early Secret without a PSK, and the salt that follows from it.
        self.early_secret = self.hmac(self.zeros, self.zeros)
        self.early_salt = self.hmac(self.early_secret, self._derived)

    def expand(self, secret: bytes, label: bytes, context: bytes) -> bytes:
        """HKDF-Expand-Label for a secret of the hash's own length."""
        return self.hmac(secret, _label_head(label, len(context), self.digest_bytes) + context + b"\x01")

    def salt_after(self, secret: bytes) -> bytes:
        """Derive-Secret(secret, "derived", ""): the salt of the next Extract."""
        return self.hmac(secret, self._derived)

    def finished(self, base_key: bytes, transcript_hash: bytes) -> bytes:
        """Return verify_data of Finished, or a PSK binder (RFC 8446 section 4.4.4)."""
        return self.hmac(self.hmac(base_key, self._finished), transcript_hash)


def suites(hmac_sha256: Hmac | None = None, hmac_sha384: Hmac | None = None) -> dict[int, Suite]:
    """Return all suites by id, on the given HMACs or on hashlib's."""
    return {
        AES_128_GCM: Suite(AES_128_GCM, "sha256", hmac_sha256),
        AES_256_GCM: Suite(AES_256_GCM, "sha384", hmac_sha384),
        CHACHA20_POLY1305: Suite(CHACHA20_POLY1305, "sha256", hmac_sha256),
    }


SUITES: Final = suites()


class KeySchedule:
    """The secrets and transcript of one handshake, from Early Secret; `mix` goes on to Handshake and Master Secret."""

    __slots__ = ("_digest", "_transcript", "secret", "suite")

    def __init__(self, suite: Suite, psk: bytes | None = None) -> None:
        self.suite = suite
        self.secret = suite.early_secret if psk is None else suite.hmac(suite.zeros, psk)
        self._transcript = suite.new_hash()
        self._digest: bytes | None = suite.empty_hash

    def add(self, message: bytes) -> None:
        """Append to the transcript."""
        self._transcript.update(message)
        self._digest = None

    @property
    def transcript_hash(self) -> bytes:
        """Hash of all messages so far."""
        digest = self._digest
        if digest is None:
            digest = self._digest = self._transcript.digest()
        return digest

    def mix(self, key_material: bytes | None) -> None:
        """Extract the next secret: (EC)DHE and ML-KEM for Handshake Secret, None for Master Secret."""
        suite = self.suite
        salt = suite.early_salt if self.secret is suite.early_secret else suite.salt_after(self.secret)
        self.secret = suite.hmac(salt, suite.zeros if key_material is None else key_material)

    def derive(self, label: bytes) -> bytes:
        """Derive-Secret(current secret, label, transcript)."""
        return self.suite.expand(self.secret, label, self.transcript_hash)

    def finished(self, base_key: bytes) -> bytes:
        """Return verify_data over the transcript so far."""
        return self.suite.finished(base_key, self.transcript_hash)

    def binder_key(self) -> bytes:
        """Return the key of resumption PSK binders. Valid while the secret is still Early Secret."""
        return self.suite.expand(self.secret, b"res binder", self.suite.empty_hash)
