"""Which Cache-Control a file gets, by its path (`cache_control` and `cache_rules` of a site). Pure.

In a pattern, `*` is any text without a slash and `**` any text. A pattern that begins with a slash is for the whole
path, another one for its end, from a slash on. Short because there is no more to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


class CacheControl:
    """The values of one site."""

    def __init__(self, default: str | None = None, rules: Sequence[tuple[str, str]] = ()) -> None:
        """*rules*: pattern and value; the first that matches decides. An empty value: the field is not sent."""
        self._default = default.encode() if default else None
        self._rules = [(_compiled(pattern), value.encode() or None) for pattern, value in rules]

    def of(self, path: bytes) -> bytes | None:
        """Return the value for the file at *path*, which has no slash before it; None: no field."""
        whole = b"/" + path
        return next((value for pattern, value in self._rules if pattern.fullmatch(whole)), self._default)


def _compiled(pattern: str) -> re.Pattern[bytes]:
    parts = re.findall(r"\*+|[^*]+", pattern)
    text = "".join("[^/]*" if part == "*" else ".*" if part[0] == "*" else re.escape(part) for part in parts)
    return re.compile((text if pattern.startswith("/") else f"(?:.*/)?{text}").encode(), re.DOTALL)
