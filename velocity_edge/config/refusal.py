"""All problems of a configuration as one `ConfigError`: one line for each, with its place, in the order of the file.

    serve.yaml:3:4: server.lisen: cannot understand this key; did you mean "listen"?

A place is file, line and column, a variable of the environment, or a flag. A problem with a key that nothing has set is
reported at the nearest key around or below it. Short because the sentences are made where the problems are found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from velocity_edge.config.section import KeyPath, Problem, dotted_path
from velocity_edge.errors import ConfigError


def refuse(found: Sequence[Problem], origins: Mapping[KeyPath, str], name: str, *, hidden: int = 0) -> ConfigError:
    """Return one error for all problems *found*. *origins*: key -> its place; *name* is for keys without one.

    *hidden*: number of first steps of keys that the file does not have ("content" of an edge configuration).
    """
    order = {key: i for i, key in enumerate(origins)}
    placed = [(_place(path, origins), path, text) for path, text in found]
    placed.sort(key=lambda entry: order.get(entry[0], -1))
    lines = dict.fromkeys(f"{origins.get(at, name)}: {dotted_path(path[hidden:])}: {text}" for at, path, text in placed)
    return ConfigError("\n".join(lines))


def _place(path: KeyPath, origins: Mapping[KeyPath, str]) -> KeyPath:
    """Return *path* if it was set, else the nearest key around or below it; for a moved section, its original place."""
    if path[:2] == ("server", "telemetry") and ("telemetry",) in origins:
        path = path[1:]
    around = (path[:length] for length in range(len(path), 0, -1))
    inside = (key for key in origins if key[: len(path)] == path)
    return next((key for key in (*around, *inside) if key in origins), ())
