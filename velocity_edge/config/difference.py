"""How two configurations differ, key by key, as an operator thinks of them. Pure.

Entries of lists are compared by what they are for: sites by host name, proxies by host name and path, routes by what
they match, middlewares by name. So moving a route or writing a default out is no difference, and a changed route is not
one that was removed and another that was added.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from velocity_edge.config.effects import Effect, effect_of
from velocity_edge.config.model import Config

#: Values that are not shown: keys, passwords, and what they are derived from.
_SECRET: Final = re.compile(r"(secret|password|token|credentials|authorization)$", re.IGNORECASE)
_HIDDEN: Final = "(secret)"


@dataclass(frozen=True, slots=True)
class Difference:
    """A key with another value; None is a key that one of the two does not have."""

    key: str
    before: Any
    after: Any
    effect: Effect


def differences(before: Config, after: Config) -> list[Difference]:
    """Return what is different, in the order of the keys."""
    old, new = dict(_leaves(before.to_json(), "")), dict(_leaves(after.to_json(), ""))
    keys = list(dict.fromkeys((*old, *new)))
    return [
        Difference(key, _shown(key, old.get(key)), _shown(key, new.get(key)), effect_of(re.split(r"\[", key)[0]))
        for key in keys
        if old.get(key) != new.get(key)
    ]


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and key.rpartition(".")[2] not in ("context", "options", "body"):
        for name, below in value.items():
            yield from _leaves(below, f"{key}.{name}" if key else name)
    elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        seen: dict[str, int] = {}
        for entry in value:
            name = _name(entry)
            seen[name] = seen.get(name, 0) + 1
            number = f" #{seen[name]}" if seen[name] > 1 else ""
            yield from _leaves(entry, f"{key}[{name}{number}]")
    elif value not in (None, [], {}):
        yield key, value


def _name(entry: Mapping[str, Any]) -> str:
    """Return what an entry of a list is for."""
    match = entry.get("match")
    if isinstance(match, dict):
        parts = [",".join(match["methods"]), ",".join(match.get("host") or ()) + match["path"]]
        parts += ["exactly" if match.get("exact") else ""]
        parts += [f"{name}={value}" for name, value in sorted((match.get("headers") or {}).items())]
        return " ".join(part for part in parts if part)
    if "hostname" in entry:
        return f"{entry['hostname']}{entry.get('path', '')}"
    return str(entry.get("name") or entry.get("url") or next(iter(entry.values()), ""))


def _shown(key: str, value: Any) -> Any:
    return _HIDDEN if value is not None and _SECRET.search(key.rpartition(".")[2]) else value
