"""An export opens with its passphrase and with no other; any other file is refused with a reason."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from velocity_edge.errors import CannotDo
from velocity_edge.keys import backup

TABLE = {"version": 1, "seal_with": 1, "epochs": [{"epoch": 1, "created_s": 0.0, "root": "S3CRET"}]}


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return backup.seal(TABLE, b"correct horse", os.urandom)


def test_an_export_opens_with_its_passphrase(sealed: bytes) -> None:
    assert backup.is_encrypted(sealed)
    assert b"S3CRET" not in sealed
    assert backup.unseal(sealed, b"correct horse") == TABLE
    assert not backup.is_encrypted(backup.plain(TABLE))
    assert backup.unseal(backup.plain(TABLE)) == TABLE


def test_two_exports_have_nothing_in_common(sealed: bytes) -> None:
    one, two = json.loads(sealed), json.loads(backup.seal(TABLE, b"correct horse", os.urandom))
    assert one["kdf"]["salt"] != two["kdf"]["salt"]
    assert one["nonce"] != two["nonce"]


def test_another_passphrase_is_refused(sealed: bytes) -> None:
    with pytest.raises(CannotDo, match="wrong passphrase, or the file is damaged"):
        backup.unseal(sealed, b"battery staple")


@pytest.mark.parametrize("field", ["nonce", "data", "salt", "kind-like"])
def test_a_changed_file_does_not_open(sealed: bytes, field: str) -> None:
    document = json.loads(sealed)
    if field == "salt":
        document["kdf"]["salt"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    elif field == "kind-like":
        document["note"] = "added later"
    else:
        document[field] = "AAAA" + document[field][4:]
    with pytest.raises(CannotDo, match="the file is damaged"):
        backup.unseal(json.dumps(document).encode(), b"correct horse")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kdf": {"name": "scrypt", "n": 2**30, "r": 8, "p": 1, "salt": ""}}, "would cost too much"),
        ({"kdf": {"name": "scrypt", "n": 1024, "r": 8, "p": 1000, "salt": ""}}, "would cost too much"),
        ({"kdf": {"name": "pbkdf2", "n": 2, "r": 1, "p": 1, "salt": ""}}, "expected scrypt and AES-256-GCM"),
        ({"kdf": {"name": "scrypt", "n": 1000, "r": 8, "p": 1, "salt": ""}}, "a field is missing or wrong"),
        ({"kdf": None}, "a field is missing or wrong"),
        ({"data": 7}, "a field is missing or wrong"),
        ({"version": 2}, "expected version 1; a later velocity-edge wrote this"),
        ({"kind": "something"}, "not a file of `tickets export`"),
    ],
)
def test_an_invalid_file_is_refused_with_a_reason(sealed: bytes, change: dict[str, object], reason: str) -> None:
    with pytest.raises(CannotDo, match=reason):
        backup.unseal(json.dumps({**json.loads(sealed), **change}).encode(), b"correct horse")


@settings(max_examples=50)
@given(st.binary(max_size=200) | st.sampled_from([b"[" * 100_000, b"[]", b"{}"]))
def test_random_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(CannotDo, match="cannot read the keys"):
        backup.unseal(content, b"x")
