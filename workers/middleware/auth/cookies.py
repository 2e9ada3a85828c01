"""Cookies that hold sealed values: names, sizes, chunks (RFC 6265bis). Pure.

A value that does not fit into one cookie is cut into several: the first has their number in front. They are sealed as
one text, so chunks of another value, in another order or of another browser do not open. Names have the prefix
`__Host-`: only this host, over a secure connection, can have set such a cookie, and not a neighbour in the domain.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workers.http import Headers

#: Browsers keep 4096 bytes for name, value and attributes of a cookie (RFC 6265bis section 5.6).
MAX_COOKIE_BYTES: Final = 4096
#: The name and the attributes that `set_cookie` writes.
_ROOM_BYTES: Final = 256
CHUNK_BYTES: Final = MAX_COOKIE_BYTES - _ROOM_BYTES
#: With logins that have begun and the fields of a browser, a request stays below `max_field_section` (16 KiB).
MAX_CHUNKS: Final = 2
_FIRST: Final = re.compile(rb"([1-9])\.([A-Za-z0-9_-]*)")
#: Of all cookies of this node; they are for nobody else. `__Host-` is enforced by browsers.
PREFIX: Final = b"__Host-velocity-"
_ATTRIBUTES: Final = b"; Path=/; Secure; HttpOnly; SameSite=Lax"


def cookies_of(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return names and values of all cookies of a request, which may be in several fields (RFC 9114 section 4.2.1)."""
    found = []
    for name, value in headers:
        if name == b"cookie":
            for pair in value.split(b";"):
                key, equals, text = pair.strip(b" \t").partition(b"=")
                if equals:
                    found.append((key, text))
    return found


def for_upstream(cookies: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the value of a `cookie` field without the cookies of this node; b"" when there are no others."""
    return b"; ".join(name + b"=" + value for name, value in cookies if not name.startswith(PREFIX))


def set_cookie(name: bytes, value: bytes, max_age_s: int) -> tuple[bytes, bytes]:
    """Return the field that sets a cookie for *max_age_s*; 0 deletes it."""
    return b"set-cookie", b"%s=%s; Max-Age=%d%s" % (name, value, max(0, max_age_s), _ATTRIBUTES)


def chunk_names(name: bytes, n: int = MAX_CHUNKS) -> Sequence[bytes]:
    """Return the names of *n* chunks. "~" is in no name of a middleware."""
    return [name, *(b"%s~%d" % (name, i) for i in range(1, n))]


def split(name: bytes, sealed: bytes, max_age_s: int) -> list[tuple[bytes, bytes]] | None:
    """Return the fields that store *sealed*; None when it is larger than `MAX_CHUNKS` cookies."""
    text = base64.urlsafe_b64encode(sealed).rstrip(b"=")
    chunks = [text[i : i + CHUNK_BYTES] for i in range(0, len(text), CHUNK_BYTES)]
    if len(chunks) > MAX_CHUNKS:
        return None
    chunks[0] = b"%d.%s" % (len(chunks), chunks[0])
    return [set_cookie(*pair, max_age_s) for pair in zip(chunk_names(name, len(chunks)), chunks, strict=True)]


def join(name: bytes, cookies: Mapping[bytes, bytes]) -> bytes | None:
    """Return the sealed value in *cookies*; None when it is not there, not complete, or not of this form."""
    first = _FIRST.fullmatch(cookies.get(name, b""))
    if first is None or int(first[1]) > MAX_CHUNKS:
        return None
    parts = [first[2], *(cookies.get(other, b"") for other in chunk_names(name, int(first[1]))[1:])]
    text = b"".join(parts)
    try:
        sealed = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    # Only the form that `split` writes: the last character has bits that decoding ignores.
    return sealed if base64.urlsafe_b64encode(sealed).rstrip(b"=") == text else None


def clear(name: bytes, cookies: Iterable[bytes], but: int = 0) -> list[tuple[bytes, bytes]]:
    """Return the fields that delete the chunks of *name* which the client has, but the first *but*.

    *cookies* are the names that it sent.
    """
    sent = set(cookies)
    return [set_cookie(one, b"", 0) for one in chunk_names(name)[but:] if one in sent]
