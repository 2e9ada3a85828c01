"""Loads a file, the environment and the flags into one `Config`, or raises an error that lists every problem.

Precedence: file < VELOCITY_* variables < flags. The origin of every value is recorded, for errors and for
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
from velocity_edge.config.model import Config
from velocity_edge.config.section import KeyPath, Problem, all_problems, dotted_path
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
) -> Config:
    """Return the configuration, or raise `ConfigError`.

    *path*: the YAML file; None: no file. *overrides*: dotted keys and their values, such as {"server.workers": 2};
    relative paths among them are relative to the working directory. *flags*: names for overrides in messages, such as
    {"server.workers": "--workers"}.
    """
    return load_with_origins(path, overrides, environment=environment, flags=flags).config


def load_with_origins(
    path: Path | None,
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, str] | None = None,
) -> Loaded:
    """Return the configuration as `load` does, with the origin of each value."""
    tree = _read(path) if path else Tree({})
    name = str(path) if path else "configuration"
    origins = {key: f"{name}:{line}:{column}" for key, (line, column) in tree.places.items()}
    notes: list[str] = []
    values = tree.values
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
    config = _validate(values, base, origins, name)
    return Loaded(config, name, origins, notes)


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


def _validate(values: dict[str, Any], base: Path, origins: dict[KeyPath, str], name: str) -> Config:
    try:
        # Through JSON, for which pydantic's strict mode is defined: lists are lists, keys are text.
        config = Config.model_validate_json(orjson.dumps(_without_empty(values)), context={"base": base})
    except ValidationError as error:
        found = [sentence(e["loc"], e["type"], e.get("ctx", {}), e["input"], values) for e in error.errors()]
        raise refuse(found, origins, name) from None
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"{name}: cannot be used: {error}") from None
    if config.telemetry is not None:
        if "telemetry" in (values.get("server") or {}):
            raise refuse([(("telemetry",), "cannot be given twice: server.telemetry is set as well")], origins, name)
        server = config.server.model_copy(update={"telemetry": config.telemetry})
        config = config.model_copy(update={"server": server, "telemetry": None})
    if found := list(all_problems(config)):
        raise refuse(found, origins, name)
    return config


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Return *values* without empty sections ("limits:" and nothing below)."""
    return {
        key: _without_empty(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }


def refuse(found: list[Problem], origins: Mapping[KeyPath, str], name: str) -> ConfigError:
    """Return one error for all problems *found*, each with its position, in the order of the file."""
    order = {key: i for i, key in enumerate(origins)}
    placed = [(_place(path, origins), path, text) for path, text in found]
    placed.sort(key=lambda entry: order.get(entry[0], -1))
    lines = dict.fromkeys(f"{origins.get(at, name)}: {dotted_path(path)}: {text}" for at, path, text in placed)
    return ConfigError("\n".join(lines))


def _place(path: KeyPath, origins: Mapping[KeyPath, str]) -> KeyPath:
    """Return *path* if it was set, else the nearest key around or below it; for a moved section, its original place."""
    if path[:2] == ("server", "telemetry") and ("telemetry",) in origins:
        path = path[1:]
    around = (path[:length] for length in range(len(path), 0, -1))
    inside = (key for key in origins if key[: len(path)] == path)
    return next((key for key in (*around, *inside) if key in origins), ())
