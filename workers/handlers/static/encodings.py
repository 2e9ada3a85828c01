"""Content negotiation for precompressed files: Accept-Encoding with its q-values (RFC 9110 section 12.5.3). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Content codings of precompressed files (sidecars), best first, and the suffix of their names.
SIDECARS: Final = {"br": b".br", "zstd": b".zst", "gzip": b".gz"}

#: A field with more members than this is not from a browser; the rest is ignored.
_MAX_MEMBERS: Final = 32


def choose(accept_encoding: bytes | None, available: Sequence[str]) -> str | None:
    """Return the coding of *available* (best first) that the client prefers; None is identity.

    With equal q-values the server's order decides, and any listed coding takes precedence over identity unless identity
    has the higher q. If nothing is acceptable the result is identity, too: section 12.5.3 prefers a response to a 406.
    """
    if not accept_encoding or not available:
        return None
    quality: dict[str, float] = {}
    for member in accept_encoding.decode("latin-1").lower().split(",")[:_MAX_MEMBERS]:
        name, *parameters = (part.strip(" \t") for part in member.split(";"))
        if name:
            quality["gzip" if name == "x-gzip" else name] = _q(parameters)
    any_other = quality.get("*", 0.0)
    best: str | None = None
    # Identity is always acceptable unless excluded; unlisted, any listed coding takes precedence.
    best_q = quality.get("identity", 0.0)
    for name in available:
        q = quality.get(name, any_other)
        if q > 0 and (q > best_q or (best is None and q == best_q)):
            best, best_q = name, q
    return best


def _q(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            value = value.strip()
            # qvalue = 0[.ddd] | 1[.000]; anything else is treated as a refusal, which is safe.
            if len(value) <= 5 and value[:1] in ("0", "1") and value[1:2] in ("", ".") and (value[2:] or "0").isdigit():
                return min(float(value), 1.0)
            return 0.0
    return 1.0
