"""`config lint FILE` and `config show`: what a file says, before anything uses it."""

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
@click.option("--shape-only", is_flag=True, help="Do not look for the certificates and folders that it names.")
def lint(file: Path, shape_only: bool) -> None:
    """Check a file: unknown keys, wrong values, files that are not there. Exit code 78 when it cannot be used."""
    loaded = load_with_origins(file, environment={})
    if not shape_only:
        for warning in check(loaded):
            output.show(f"{file}: note: {warning}", err=True)
    output.show(f"{file}: fine")


@config.command()
@click.option("--config", "-c", "file", type=_FILE, help="The file; without it: environment and defaults.")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, the form that workers get.")
@click.option("--all", "everything", is_flag=True, help="Defaults too.")
def show(file: Path | None, origin: bool, as_json: bool, everything: bool) -> None:
    """Print what is in force."""
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
    """Return where a value was set: itself, or as part of a list that was set as a whole."""
    for candidate in (path, path[1:] if path[:2] == ("server", "telemetry") else path):
        if candidate in loaded.origins:
            return loaded.origins[candidate]
    whole = loaded.origins.get(("content", "sites")) if path[:2] == ("content", "sites") else None
    return whole if whole and whole.startswith("-") else None
