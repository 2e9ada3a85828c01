"""`config lint FILE` and `config show`: check and print a configuration before a node uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from velocity_edge.cli import output
from velocity_edge.config.load import Loaded, load_with_origins
from velocity_edge.config.section import KeyPath, dotted_path
from velocity_edge.config.servable import check

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def config() -> None:
    """Check or show a configuration."""


@config.command()
@click.argument("file", type=_FILE)
@click.option("--shape-only", is_flag=True, help="Do not check that the certificates and folders that it names exist.")
def lint(file: Path, shape_only: bool) -> None:
    """Check a file for unknown keys, wrong values and missing files.

    Exit code 0: a node can use it; 78: it cannot.
    """
    loaded = load_with_origins(file, environment={})
    if not shape_only:
        for warning in check(loaded):
            output.show(f"{file}: note: {warning}", err=True)
    output.show(f"{file}: ok")


@config.command()
@click.option("--config", "-c", "file", type=_FILE, help="The file; without it, only the environment and the defaults.")
@click.option("--origin", is_flag=True, help="Show where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as workers get it.")
@click.option("--all", "everything", is_flag=True, help="Include defaults.")
def show(file: Path | None, origin: bool, as_json: bool, everything: bool) -> None:
    """Print the resolved configuration."""
    loaded = load_with_origins(file)
    if as_json:
        output.show_json(loaded.config.to_json())
        return
    for path, value in _leaves(loaded.config.to_json(), ()):
        where = _origin(path, loaded)
        if where is None and not everything:
            continue
        line = f"{dotted_path(path)} = {value!r}" if isinstance(value, str) else f"{dotted_path(path)} = {value}"
        output.show(f"{line:60}  # {where or 'default'}" if origin else line)


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves(below, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for i, below in enumerate(value):
            yield from _leaves(below, (*path, str(i)))
    else:
        yield path, value


def _origin(path: KeyPath, loaded: Loaded) -> str | None:
    """Return where a value was set: by itself, or as part of a list that was set as a whole."""
    for candidate in (path, path[1:] if path[:2] == ("server", "telemetry") else path):
        if candidate in loaded.origins:
            return loaded.origins[candidate]
    whole = loaded.origins.get(("content", "sites")) if path[:2] == ("content", "sites") else None
    return whole if whole and whole.startswith("-") else None
