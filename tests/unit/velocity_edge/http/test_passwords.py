"""An entry verifies its password and no other; what would protect badly, or cost too much, is refused with the line."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from velocity_edge.http.passwords import LN, SALT_BYTES, P, R, UnusableEntry, entry, parse, parse_file, stand_in

SALT = bytes(range(SALT_BYTES))
CHEAP = "$scrypt$ln=10,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$"


def text(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def cheap(password: bytes) -> str:
    return CHEAP + text(hashlib.scrypt(password, salt=SALT, n=1024, r=8, p=1, dklen=32))


def test_an_entry_verifies_its_password() -> None:
    users = parse_file(entry("älice", b"s3cret", SALT).encode())
    assert users["älice"].verifies(b"s3cret")
    assert not users["älice"].verifies(b"s3cret ")
    assert users["älice"].cost == (LN, R, P)


@settings(max_examples=20)
@given(st.binary(min_size=1, max_size=40), st.binary(min_size=1, max_size=40))
def test_only_the_password_verifies(password: bytes, other: bytes) -> None:
    assert parse(cheap(password)).verifies(other) is (password == other)


@pytest.mark.parametrize("kind", ["sha256", "sha512"])
def test_pbkdf2_of_passlib_is_read(kind: str) -> None:
    digest = hashlib.pbkdf2_hmac(kind, b"pw", SALT, 1000)
    found = parse(f"$pbkdf2-{kind}$1000${text(SALT)}${text(digest)}".replace("+", "."))
    assert found.verifies(b"pw")
    assert not found.verifies(b"pw2")


@pytest.mark.parametrize(
    ("hash_", "said"),
    [
        ("$2y$10$abcdefghijklmnopqrstuv", "'2y'.*velocity-edge password"),
        ("$apr1$x$y", "'apr1'"),
        ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "{SHA}"),
        ("$6$salt$hash", "'6'"),
        ("plain", "expected"),
        ("", "expected"),
        (CHEAP.replace("ln=10", "ln=20") + "A" * 43, "cost"),
        (CHEAP.replace("ln=10,r=8", "ln=16,r=16") + "A" * 43, "cost"),
        (CHEAP.replace("ln=10", "ln=1") + "A" * 43, "cost"),
        ("$pbkdf2-sha256$999$" + "A" * 22 + "$" + "A" * 43, "rounds"),
        ("$pbkdf2-sha256$9999999$" + "A" * 22 + "$" + "A" * 43, "rounds"),
        (CHEAP + "A" * 41, "Base64"),
    ],
)
def test_weak_costly_and_unknown_hashes_are_refused_with_the_line(hash_: str, said: str) -> None:
    with pytest.raises(UnusableEntry, match=f"line 3: .*{said}"):
        parse_file(f"# users\n\na:{hash_}\n".encode())


@pytest.mark.parametrize("lines", ["a", ":x", f"a:{CHEAP}{'A' * 43}\na:{CHEAP}{'A' * 43}"])
def test_lines_without_a_new_name_are_refused(lines: str) -> None:
    with pytest.raises(UnusableEntry, match="a name that is new"):
        parse_file(lines.encode())


@pytest.mark.parametrize(
    ("name", "password"), [("", b"x"), ("a:b", b"x"), ("a\n", b"x"), ("a", b""), ("a", b"x" * 1025)]
)
def test_an_entry_that_could_not_be_read_is_not_made(name: str, password: bytes) -> None:
    with pytest.raises(UnusableEntry):
        entry(name, password, SALT)


def test_the_stand_in_costs_as_much_and_verifies_nothing() -> None:
    users = parse_file(f"a:{cheap(b'pw')}".encode())
    nobody = stand_in(users)
    assert (nobody.kind, nobody.cost) == (users["a"].kind, users["a"].cost)
    assert not nobody.verifies(b"pw")
    assert stand_in({}).cost == (LN, R, P)


def test_secrets_stay_out_of_repr() -> None:
    assert "digest" not in repr(parse(cheap(b"pw")))
