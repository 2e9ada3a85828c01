"""The epoch table as a file that leaves the machine (`tickets export`, `tickets import`): JSON, versioned, encrypted.

    {"kind": "velocity-edge keys", "version": 1,
     "kdf": {"name": "scrypt", "n": 131072, "r": 8, "p": 1, "salt": "<base64>"},
     "cipher": "AES-256-GCM", "nonce": "<base64>", "data": "<base64>"}

`data` is the table (document.py) under a key that scrypt (RFC 7914) derives from a passphrase; everything above it is
authenticated as associated data. A plain export has the table under "table" instead. A reader of a table can open every
session ticket of the node and forge its resets, so a plain export must be asked for by name.

The costs of key derivation that a file states are bounded before they are paid. This file is pure: random bytes come
from the caller.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from velocity_edge.errors import CannotDo

KIND: Final = "velocity-edge keys"
VERSION: Final = 1
#: 128 MiB and about half a second: the cost that RFC 7914 recommends for files.
_N, _R, _P = 131_072, 8, 1
#: The most that a file may ask for: 1 GiB.
_MAX_MEMORY: Final = 1 << 30
_MAX_P: Final = 4
MAX_FILE_BYTES: Final = 262_144


def seal(table: dict[str, Any], passphrase: bytes, random: Callable[[int], bytes]) -> bytes:
    """Return the content of an encrypted file; *random* returns so many random bytes."""
    salt, nonce = random(16), random(12)
    head: dict[str, Any] = {
        "kind": KIND,
        "version": VERSION,
        "kdf": {"name": "scrypt", "n": _N, "r": _R, "p": _P, "salt": _text(salt)},
        "cipher": "AES-256-GCM",
        "nonce": _text(nonce),
    }
    key = Scrypt(salt, 32, _N, _R, _P).derive(passphrase)
    data = AESGCM(key).encrypt(nonce, json.dumps(table).encode(), _bound(head))
    return json.dumps({**head, "data": _text(data)}, indent=1).encode() + b"\n"


def plain(table: dict[str, Any]) -> bytes:
    """Return the content of a file that is not encrypted."""
    return json.dumps({"kind": KIND, "version": VERSION, "table": table}, indent=1).encode() + b"\n"


def is_encrypted(content: bytes) -> bool:
    """Return whether a passphrase is needed. Raises `CannotDo` when the content is not such a file."""
    return "table" not in _document(content)


def unseal(content: bytes, passphrase: bytes = b"") -> Any:
    """Return the table's document. Raises `CannotDo`: not such a file, damaged, or the wrong passphrase."""
    document = _document(content)
    if "table" in document:
        return document["table"]
    try:
        kdf = document["kdf"]
        n, r, p = (int(kdf[name]) for name in "nrp")
        if kdf["name"] != "scrypt" or document["cipher"] != "AES-256-GCM":
            raise CannotDo("cannot read the keys: expected scrypt and AES-256-GCM")
        if not (n > 1 and r >= 1 and 1 <= p <= _MAX_P and 128 * n * r <= _MAX_MEMORY):
            raise CannotDo("cannot read the keys: deriving their key would cost too much")
        salt, nonce, data = (base64.b64decode(text, validate=True) for text in (kdf["salt"], *_named(document)))
        key = Scrypt(salt, 32, n, r, p).derive(passphrase)
        opened = AESGCM(key).decrypt(nonce, data, _bound({k: v for k, v in document.items() if k != "data"}))
        return json.loads(opened)
    except InvalidTag:
        raise CannotDo("cannot open the keys: wrong passphrase, or the file is damaged") from None
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
        raise CannotDo(f"cannot read the keys: a field is missing or wrong ({type(error).__name__})") from None


def _named(document: dict[str, Any]) -> tuple[Any, Any]:
    return document["nonce"], document["data"]


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise CannotDo("cannot read the keys: not JSON, so not a file of `tickets export`") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise CannotDo("cannot read the keys: not a file of `tickets export`")
    if document.get("version") != VERSION:
        raise CannotDo(f"cannot read the keys: expected version {VERSION}; a later velocity-edge wrote this file")
    return document


def _bound(head: dict[str, Any]) -> bytes:
    return json.dumps(head, sort_keys=True, separators=(",", ":")).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
