"""An export opens with its passphrase and with no other; whatever else a file is, it is refused with a sentence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from velocity_edge.errors import CannotDo
from velocity_edge.keys import backup as keybackup

TABLE = {"version": 1, "seal_with": 1, "epochs": [{"epoch": 1, "created_s": 0.0, "root": "S3CRET"}]}


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return keybackup.seal(TABLE, b"correct horse")


def test_round_trips(sealed: bytes) -> None:
    assert keybackup.is_encrypted(sealed)
    assert b"S3CRET" not in sealed
    assert keybackup.unseal(sealed, b"correct horse") == TABLE
    assert not keybackup.is_encrypted(keybackup.plain(TABLE))
    assert keybackup.unseal(keybackup.plain(TABLE)) == TABLE


def test_two_exports_have_nothing_in_common(sealed: bytes) -> None:
    one, two = json.loads(sealed), json.loads(keybackup.seal(TABLE, b"correct horse"))
    assert one["kdf"]["salt"] != two["kdf"]["salt"]
    assert one["nonce"] != two["nonce"]


def test_another_passphrase(sealed: bytes) -> None:
    with pytest.raises(CannotDo, match="the passphrase is not the right one, or the file is damaged"):
        keybackup.unseal(sealed, b"battery staple")


@pytest.mark.parametrize("field", ["nonce", "data", "salt", "kind-like"])
def test_what_was_changed_does_not_open(sealed: bytes, field: str) -> None:
    document = json.loads(sealed)
    if field == "salt":
        document["kdf"]["salt"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    elif field == "kind-like":
        document["note"] = "added by a stranger"
    else:
        document[field] = "AAAA" + document[field][4:]
    with pytest.raises(CannotDo, match="the file is damaged"):
        keybackup.unseal(json.dumps(document).encode(), b"correct horse")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kdf": {"name": "scrypt", "n": 2**30, "r": 8, "p": 1, "salt": ""}}, "would cost too much"),
        ({"kdf": {"name": "scrypt", "n": 1024, "r": 8, "p": 1000, "salt": ""}}, "would cost too much"),
        ({"kdf": {"name": "pbkdf2", "n": 2, "r": 1, "p": 1, "salt": ""}}, "scrypt and AES-256-GCM would be right"),
        ({"kdf": {"name": "scrypt", "n": 1000, "r": 8, "p": 1, "salt": ""}}, "a field is missing or wrong"),
        ({"kdf": None}, "a field is missing or wrong"),
        ({"data": 7}, "a field is missing or wrong"),
        ({"version": 2}, "version 1 would be right; a later velocity-edge wrote this"),
        ({"kind": "something"}, "not a file of `tickets export`"),
    ],
)
def test_bad_files(sealed: bytes, change: dict[str, object], reason: str) -> None:
    with pytest.raises(CannotDo, match=reason):
        keybackup.unseal(json.dumps({**json.loads(sealed), **change}).encode(), b"correct horse")


@settings(max_examples=50)
@given(st.binary(max_size=200) | st.sampled_from([b"[" * 100_000, b"[]", b"{}"]))
def test_any_bytes(content: bytes) -> None:
    with pytest.raises(CannotDo, match="cannot read the keys"):
        keybackup.unseal(content, b"x")
