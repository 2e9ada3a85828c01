"""Entries of a file of users: making one, reading a file, and verifying a password. Pure.

    alice:$scrypt$ln=14,r=8,p=5$<salt>$<hash>
    bob:$pbkdf2-sha256$600000$<salt>$<hash>

scrypt (RFC 7914) and PBKDF2 (RFC 8018), as hashlib computes them; the form is that of the Modular Crypt Format as
passlib writes it. What htpasswd writes by default is refused with what to do: MD5 and SHA-1 are too fast to protect a
password, and bcrypt is not in the standard library.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: 16 MiB and about 0.15 s: one of the equivalent settings that OWASP's cheat sheet on password storage has.
LN, R, P = 14, 8, 5
SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32
#: What one verification may cost: 64 MiB, and the time of a few million rounds.
_LN: Final = range(10, 17)
_R: Final = range(1, 17)
_P: Final = range(1, 17)
_ROUNDS: Final = range(1_000, 5_000_001)
_MAX_BYTES: Final = 64 * 1024 * 1024
MAX_USERS: Final = 10_000
MAX_PASSWORD_BYTES: Final = 1024

_SCRYPT: Final = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,88})\$([A-Za-z0-9+/]{22,88})"
)
_PBKDF2: Final = re.compile(r"\$pbkdf2-(sha256|sha512)\$(\d{1,7})\$([A-Za-z0-9./]{11,88})\$([A-Za-z0-9./]{22,88})")
_REMEDY: Final = "make entries with `velocity-edge password NAME`"


class UnusableEntry(Exception):
    """An entry that cannot be used; the text says why, and quotes no hash."""


@dataclass(frozen=True, slots=True)
class Hash:
    """How one password is verified."""

    #: "scrypt", "sha256" or "sha512" (PBKDF2).
    kind: str
    #: (ln, r, p), or (rounds,).
    cost: tuple[int, ...]
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    def verifies(self, password: bytes) -> bool:
        """Return whether this is the password, in a time that depends on the cost only. Takes about 0.1 s."""
        return hmac.compare_digest(_digest(self.kind, self.cost, self.salt, password, len(self.digest)), self.digest)


def _digest(kind: str, cost: tuple[int, ...], salt: bytes, password: bytes, n_bytes: int) -> bytes:
    if kind == "scrypt":
        ln, r, p = cost
        room = 128 * r * (2**ln + p + 2) + 65_536
        return hashlib.scrypt(password, salt=salt, n=2**ln, r=r, p=p, maxmem=room, dklen=n_bytes)
    return hashlib.pbkdf2_hmac(kind, password, salt, cost[0], n_bytes)


def entry(name: str, password: bytes, salt: bytes) -> str:
    """Return the line for a user. *salt*: `SALT_BYTES` random bytes. Raises `UnusableEntry`."""
    if not name or ":" in name or not name.isprintable():
        raise UnusableEntry(f"cannot use the name {name!r}: expected printable characters and no colon")
    if not password or len(password) > MAX_PASSWORD_BYTES:
        raise UnusableEntry(f"cannot use this password: expected 1 to {MAX_PASSWORD_BYTES} bytes")
    digest = _digest("scrypt", (LN, R, P), salt, password, _HASH_BYTES)
    return f"{name}:$scrypt$ln={LN},r={R},p={P}${_encoded(salt)}${_encoded(digest)}"


def parse(text: str) -> Hash:
    """Return the hash of an entry. Raises `UnusableEntry`."""
    if found := _SCRYPT.fullmatch(text):
        ln, r, p = (int(found[i]) for i in (1, 2, 3))
        if ln not in _LN or r not in _R or p not in _P or 128 * r * 2**ln > _MAX_BYTES:
            raise UnusableEntry("cannot use this cost of scrypt: expected ln 10 to 16, r and p 1 to 16, at most 64 MiB")
        return Hash("scrypt", (ln, r, p), _decoded(found[4]), _decoded(found[5]))
    if found := _PBKDF2.fullmatch(text):
        if int(found[2]) not in _ROUNDS:
            raise UnusableEntry("cannot use this number of rounds of PBKDF2: expected 1000 to 5000000")
        # passlib writes "." for "+".
        return Hash(found[1], (int(found[2]),), *(_decoded(found[i].replace(".", "+")) for i in (3, 4)))
    if text.startswith(("$2", "$apr1$", "$1$", "$5$", "$6$", "{", "$argon2")):
        scheme = text.split("$")[1] if text.startswith("$") else text.partition("}")[0] + "}"
        raise UnusableEntry(f"cannot verify a password of the kind {scheme[:12]!r}: {_REMEDY}")
    raise UnusableEntry(f"cannot use this hash: expected $scrypt$ or $pbkdf2-sha256$; {_REMEDY}")


def parse_file(content: bytes) -> Mapping[str, Hash]:
    """Return the users of a file, one `name:hash` a line; "#" is a comment. Raises `UnusableEntry` with the line."""
    users: dict[str, Hash] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, colon, hash_ = text.partition(":")
        if not colon or not name or name in users:
            raise UnusableEntry(f"line {number}: cannot use it: expected a name that is new, a colon and a hash")
        try:
            users[name] = parse(hash_)
        except UnusableEntry as error:
            raise UnusableEntry(f"line {number}: {error}") from None
        if len(users) > MAX_USERS:
            raise UnusableEntry(f"line {number}: cannot use more than {MAX_USERS} users")
    return users


def stand_in(users: Mapping[str, Hash]) -> Hash:
    """Return a hash that no password has, as costly as that of the first user: for names that do not exist."""
    like = next(iter(users.values()), Hash("scrypt", (LN, R, P), b"", b"\0" * _HASH_BYTES))
    return Hash(like.kind, like.cost, b"\0" * SALT_BYTES, b"\0" * _HASH_BYTES)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii").rstrip("=")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise UnusableEntry(f"cannot read the salt or the hash: expected Base64; {_REMEDY}") from None
