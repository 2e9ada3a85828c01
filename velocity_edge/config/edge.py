"""`--edge-config FILE`: the deployment guide's edge.yaml (appendix C), merged into `content`. Pure.

It has keys of `content` at its top level: `templates_dir`, `middlewares`, `rate_limit`, `waf`, `routes`. Lists follow
those of the configuration; another key may be in one of the two files. Every value keeps the place where it was set,
and relative paths are relative to the file that has them, so its keys are checked before they are merged.

Routes in the flat form of the first implementation (`path`, `methods` and `kind` beside each other, each path exact)
are accepted here, and become `match` and `action`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from velocity_edge.config.section import KeyPath, dotted_path
from velocity_edge.config.tree import Tree
from velocity_edge.errors import ConfigError

KEYS: Final = ("templates_dir", "middlewares", "rate_limit", "waf", "routes")
#: The first implementation's name -> ours, of a kind of route.
_KINDS: Final = {"static_file": "file"}
_OF_MATCH: Final = ("path", "methods")


def is_edge(values: Mapping[str, Any]) -> bool:
    """Whether a file with these keys at its top can only be an edge configuration."""
    return bool(values) and all(key in KEYS for key in values)


def only_content(tree: Tree, name: str) -> Tree:
    """Return the file as a configuration with `content` alone. Raises `ConfigError` for another key."""
    for key in tree.values:
        if key not in KEYS:
            line, column = tree.places[key,]
            raise ConfigError(
                f"{name}:{line}:{column}: {key}: cannot understand this key; known in an edge configuration: "
                f"{', '.join(KEYS)}; others belong to the file of --config"
            )
    places: dict[KeyPath, tuple[int, int]] = {}
    routes = tree.values.get("routes")
    moved = {str(i): _flat(route) for i, route in enumerate(routes)} if isinstance(routes, list) else {}
    for path, place in tree.places.items():
        places["content", *_moved(path, moved)] = place
    values = dict(tree.values)
    if isinstance(routes, list):
        values["routes"] = [_nested(route) if _flat(route) else route for route in routes]
    return Tree({"content": values}, places)


def _flat(route: Any) -> bool:
    return isinstance(route, dict) and "kind" in route and not route.keys() & {"match", "action"}


def _nested(route: dict[str, Any]) -> dict[str, Any]:
    match = {key: route[key] for key in _OF_MATCH if key in route}
    action = {_renamed(key): value for key, value in route.items() if key not in _OF_MATCH}
    if isinstance(action["type"], str):
        action["type"] = _KINDS.get(action["type"], action["type"])
    # Only GET, unless methods are named, and no path below: as the first implementation routed.
    return {"match": {"methods": ["GET"], **match, "exact": True}, "action": action}


def _renamed(key: str) -> str:
    return {"kind": "type", "file": "path"}.get(key, key)


def _moved(path: KeyPath, flat: Mapping[str, bool]) -> KeyPath:
    """Return where the value at *path* is after `_nested`."""
    if len(path) < 3 or path[0] != "routes" or not flat.get(path[1]):
        return path
    section, key = ("match", path[2]) if path[2] in _OF_MATCH else ("action", _renamed(path[2]))
    return (*path[:2], section, key, *path[3:])


def merge(
    values: dict[str, Any], origins: Mapping[KeyPath, str], edge: Mapping[str, Any], edge_origins: Mapping[KeyPath, str]
) -> dict[KeyPath, str]:
    """Add *edge* (`content`, checked) to *values* (a configuration); return the origins of both.

    Raises `ConfigError` when both set a key that is no list.
    """
    content = values.get("content")
    if content is None:
        content = values["content"] = {}
    merged = dict(origins)
    shifts: dict[str, int] = {}
    for key, value in edge.items():
        if not isinstance(content, dict):
            continue  # reported as the error that it is
        own = content.get(key)
        if isinstance(value, list) and isinstance(own, list | None):
            shifts[key] = len(own or ())
            content[key] = [*(own or ()), *value]
        elif own is not None:
            place, other = edge_origins.get(("content", key), "--edge-config"), origins.get(("content", key), "")
            raise ConfigError(f"{place}: {key}: cannot be given twice: {other} has {dotted_path(('content', key))}")
        else:
            content[key] = value
    for path, origin in edge_origins.items():
        shift = shifts.get(path[1], 0) if len(path) > 2 else 0
        moved = (*path[:2], str(int(path[2]) + shift), *path[3:]) if shift else path
        merged.setdefault(moved, origin)
    return merged
