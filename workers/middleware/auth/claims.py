"""Claims about a client: which are required, and how they become fields of the request to an upstream.

A claim is named by its key, or by a path with dots into nested objects (`realm_access.roles`); a key that contains dots
itself comes first. This file is pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

Claims = Mapping[str, Any]
Scalar = str | int | bool

#: Claims that are lists in one string, separated by spaces (RFC 8693 section 4.2).
_SPACED: Final = frozenset(("scope", "scp"))
#: More would not be a name, an address or a list of groups, and upstreams refuse long header sections.
MAX_FIELD_BYTES: Final = 4096
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")
_ABSENT: Final = object()


class UnusableClaim(Exception):
    """A claim that cannot be a field: control characters, or too long. Its text names the claim, never the value."""


def claim(claims: Claims, name: str) -> Any:
    """Return the claim of this name or path, or None."""
    found = claims.get(name, _ABSENT)
    if found is not _ABSENT:
        return found
    value: Any = claims
    for step in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value


def missing(claims: Claims, required: Mapping[str, Sequence[Scalar]]) -> str | None:
    """Return the name of the first required claim that has none of the permitted values; None when all have.

    A claim that is a list, or a scope, needs one of them as an element. No permitted value: the claim must be there.
    """
    for name, permitted in required.items():
        value = claim(claims, name)
        if value is None:
            return name
        if name in _SPACED and isinstance(value, str):
            value = value.split(" ")
        values = value if isinstance(value, list) else [value]
        if permitted and not any(_same(one, other) for one in values for other in permitted):
            return name
    return None


def _same(one: object, other: Scalar) -> bool:
    # True == 1 in Python, not in JSON.
    return type(one) is type(other) and one == other


def fields_of(claims: Claims, forward: Mapping[str, bytes]) -> list[tuple[bytes, bytes]]:
    """Return the fields for an upstream: *forward* maps the name of a claim to that of a field.

    Text is UTF-8; elements of a list are separated by commas, and their own commas are percent-encoded; objects are
    JSON. A claim that is absent or null makes no field. Raises `UnusableClaim`.
    """
    fields = []
    for name, field in forward.items():
        value = claim(claims, name)
        if value is None:
            continue
        text = _text(value).strip(" ")
        if _CONTROLS.search(text):
            raise UnusableClaim(f"cannot forward the claim {name!r}: it has control characters")
        encoded = text.encode("utf-8", "replace")
        if len(encoded) > MAX_FIELD_BYTES:
            raise UnusableClaim(f"cannot forward the claim {name!r}: longer than {MAX_FIELD_BYTES} bytes")
        fields.append((field, encoded))
    return fields


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(_text(one).replace("%", "%25").replace(",", "%2C") for one in value)
    return json.dumps(value, separators=(",", ":"))
