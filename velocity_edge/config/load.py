"""Loads files, the environment and the flags into one `Config`, or raises an error that lists every problem.

Precedence: files < VELOCITY_* variables < flags. The origin of every value is recorded, for errors and for
`velocity-edge config show --origin`. All problems are reported at once, one per line:

    serve.yaml:3:4: server.lisen: cannot understand this key; did you mean "listen"?

Files that the configuration names (certificates, directories) are not opened here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import ValidationError

from velocity_edge.config import env
from velocity_edge.config.edge import is_edge, merge, only_content
from velocity_edge.config.model import Config
from velocity_edge.config.refusal import refuse
from velocity_edge.config.section import KeyPath, all_problems, dotted_path
from velocity_edge.config.sentences import sentence
from velocity_edge.config.tree import Tree, parse
from velocity_edge.errors import ConfigError

_MAX_FILE_BYTES: Final = 4 * 2**20


@dataclass(slots=True)
class Loaded:
    """A configuration, the origin of each value, and values that were set twice."""

    config: Config
    #: The file's name; "configuration" without a file.
    name: str = "configuration"
    #: Key path -> "serve.yaml:2:4", "VELOCITY_LISTEN", "--listen". Values that are not in it are defaults.
    origins: dict[KeyPath, str] = field(default_factory=dict)
    #: "server.listen: --listen wins over serve.yaml:2:4"
    notes: list[str] = field(default_factory=list)


def load(
    path: Path | None,
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, str] | None = None,
    edge: Path | None = None,
) -> Config:
    """Return the configuration, or raise `ConfigError`.

    *path*: the YAML file; None: no file. *overrides*: dotted keys and their values, such as {"server.workers": 2};
    relative paths among them are relative to the working directory. *flags*: names for overrides in messages, such as
    {"server.workers": "--workers"}. *edge*: a second file, merged into `content` (edge.py).
    """
    return load_with_origins(path, overrides, environment=environment, flags=flags, edge=edge).config


def load_with_origins(
    path: Path | None,
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, str] | None = None,
    edge: Path | None = None,
) -> Loaded:
    """Return the configuration as `load` does, with the origin of each value."""
    tree = _read(path) if path else Tree({})
    name = str(path or edge or "configuration")
    origins = _origins(tree, name)
    notes: list[str] = []
    values = tree.values
    if edge:
        origins = merge(values, origins, *_edge(edge))
    layers = [*env.overrides(environment).items()]
    layers += [(key, ((flags or {}).get(key, f"flag {key}"), value)) for key, value in (overrides or {}).items()]
    for key, (origin, value) in layers:
        steps = tuple(key.split("."))
        if steps in origins:
            notes.append(f"{key}: {origin} wins over {origins[steps]}")
        _put(values, steps, value, origins, name)
        origins = {k: v for k, v in origins.items() if k[: len(steps)] != steps}
        origins[steps] = origin
    base = path.absolute().parent if path else Path.cwd()
    config = _checked(_validate(values, base, origins, name), values, origins, name)
    return Loaded(config, name, origins, notes)


def is_edge_file(path: Path) -> bool:
    """Whether *path* is an edge configuration, by its keys. Raises `ConfigError` when it cannot be read."""
    return is_edge(_read(path).values)


def _read(path: Path) -> Tree:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path}: cannot read the configuration: larger than {_MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[: error.start].rpartition(b"\n")[2].decode("utf-8-sig")) + 1
        wide = ", not UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ConfigError(f"{path}:{line}:{column}: cannot read this as YAML: must be UTF-8{wide}") from None
    return parse(text, str(path))


def _origins(tree: Tree, name: str) -> dict[KeyPath, str]:
    return {key: f"{name}:{line}:{column}" for key, (line, column) in tree.places.items()}


def _edge(path: Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Return `content` of an edge configuration, with absolute paths, and the origins of its values."""
    tree = only_content(_read(path), str(path))
    origins = _origins(tree, str(path))
    config = _validate(tree.values, path.absolute().parent, origins, str(path), hidden=1)
    return config.content.model_dump(mode="json", by_alias=True, exclude_unset=True), origins


def _put(values: dict[str, Any], steps: KeyPath, value: Any, origins: dict[KeyPath, str], name: str) -> None:
    """Set a nested key; sections on the way that the file leaves empty ("server:") are created."""
    for i, step in enumerate(steps[:-1]):
        if values.get(step) is None:
            values[step] = {}
        values = values[step]
        if not isinstance(values, dict):
            place = origins.get(steps[: i + 1], name)
            raise ConfigError(f"{place}: {dotted_path(steps[: i + 1])}: cannot be used: must be a section with keys")
    values[steps[-1]] = value


def _validate(
    values: dict[str, Any], base: Path, origins: Mapping[KeyPath, str], name: str, *, hidden: int = 0
) -> Config:
    """Return *values* as a configuration whose values have the right types; they may contradict each other."""
    try:
        # Through JSON, for which pydantic's strict mode is defined: lists are lists, keys are text.
        return Config.model_validate_json(orjson.dumps(_without_empty(values)), context={"base": base})
    except ValidationError as error:
        found = [sentence(e["loc"], e["type"], e.get("ctx", {}), e["input"], values) for e in error.errors()]
        raise refuse(found, origins, name, hidden=hidden) from None
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"{name}: cannot be used: {error}") from None


def _checked(config: Config, values: dict[str, Any], origins: Mapping[KeyPath, str], name: str) -> Config:
    """Return *config* with `telemetry` in its place; raise `ConfigError` when its values contradict each other."""
    if config.telemetry is not None:
        if "telemetry" in (values.get("server") or {}):
            raise refuse([(("telemetry",), "cannot be given twice: server.telemetry is set as well")], origins, name)
        server = config.server.model_copy(update={"telemetry": config.telemetry})
        config = config.model_copy(update={"server": server, "telemetry": None})
    if found := list(all_problems(config)):
        raise refuse(found, origins, name)
    return config


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Return *values* without empty sections ("limits:" and nothing below). In JSON that is served, null is a value."""
    kept = {"context", "options", *(("body",) if values.get("type") == "json" else ())}
    return {
        key: _without_empty_in(value) if key not in kept else value
        for key, value in values.items()
        if value is not None or key in kept
    }


def _without_empty_in(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_empty(entry) if isinstance(entry, dict) else entry for entry in value]
    return _without_empty(value) if isinstance(value, dict) else value
