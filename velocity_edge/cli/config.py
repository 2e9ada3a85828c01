"""`config lint`, `show`, `schema` and `diff`: a configuration before a node uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from velocity_edge.admin.answers import Configured
from velocity_edge.admin.requests import ShowConfig
from velocity_edge.cli import output
from velocity_edge.cli.node import Node
from velocity_edge.config.load import Loaded, is_edge_file, load_with_origins
from velocity_edge.config.model import Config
from velocity_edge.config.section import KeyPath, dotted_path
from velocity_edge.config.servable import check
from velocity_edge.errors import VelocityError
from velocity_edge.exits import Exit

#: Keys whose values are not printed.
_SECRETS: Final = frozenset(("client_secret",))
_FILE = click.Path(path_type=Path, dir_okay=False)
_edge_option: Final = click.option(
    "--edge-config", "edge", type=_FILE, help="A file with routes and middlewares, merged into `content`."
)


@click.group()
def config() -> None:
    """Check, show or compare configurations, or print their schema."""


@config.command()
@click.argument("file", type=_FILE, required=False)
@_edge_option
@click.option(
    "--shape-only", is_flag=True, help="Do not open the files that it names, nor resolve the names of upstreams."
)
def lint(file: Path | None, edge: Path | None, shape_only: bool) -> None:
    """Check a file, an edge configuration (also as FILE), or both together.

    Unknown keys, wrong values, missing files, certificates that cannot be used, names of upstreams that do not resolve.
    Exit code 0: a node can use it; 78: it cannot.
    """
    if file is None and edge is None:
        raise click.UsageError("cannot check nothing: expected a FILE, or --edge-config")
    if file is not None and edge is None and is_edge_file(file):
        file, edge = None, file
    loaded = load_with_origins(file, environment={}, edge=edge)
    named = " with ".join(str(path) for path in (file, edge) if path is not None)
    if not shape_only:
        for warning in check(loaded, upstreams=True, part=file is None):
            output.show(f"{named}: note: {warning}", err=True)
    output.show(f"{named}: ok")


@config.command()
@click.option("--config", "-c", "file", type=_FILE, help="The file; without it, only the environment and the defaults.")
@_edge_option
@click.option("--origin", is_flag=True, help="Show where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as workers get it.")
@click.option("--all", "everything", is_flag=True, help="Include defaults.")
def show(file: Path | None, edge: Path | None, origin: bool, as_json: bool, everything: bool) -> None:
    """Print the resolved configuration."""
    loaded = load_with_origins(file, edge=edge)
    if as_json:
        output.show_json(_masked(loaded.config.to_json()))
        return
    for path, value in _leaves(_masked(loaded.config.to_json()), ()):
        where = _origin(path, loaded)
        if where is None and not everything:
            continue
        line = f"{dotted_path(path)} = {value!r}" if isinstance(value, str) else f"{dotted_path(path)} = {value}"
        output.show(f"{line:60}  # {where or 'default'}" if origin else line)


@config.command()
@click.option("--edge", is_flag=True, help="The schema of edge configurations.")
def schema(edge: bool) -> None:
    """Print the JSON Schema (draft 2020-12) of configurations, for editors.

    \b
    velocity-edge config schema > velocity-edge.schema.json
    # first line of the file:  # yaml-language-server: $schema=velocity-edge.schema.json
    """
    from velocity_edge.config.json_schema import schema_of_edge_file, schema_of_file

    output.show_json(schema_of_edge_file() if edge else schema_of_file())


@config.command()
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE, required=False)
@_edge_option
@click.option("--edge-before", type=_FILE, help="The edge configuration of BEFORE (default: that of --edge-config).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff(before: Path, after: Path | None, edge: Path | None, edge_before: Path | None, as_json: bool) -> int:
    """Compare two configurations, or with one FILE the running node's with it, and tell what a reload would do.

    Exit code 0: there is no difference; 1: there is.
    """
    from velocity_edge.config.difference import differences

    old = _running() if after is None else load_with_origins(before, edge=edge_before or edge).config
    new = load_with_origins(after or before, edge=edge).config
    found = differences(old, new)
    if as_json:
        output.show_json(
            [
                {
                    "key": one.key,
                    "before": _secret_or(one.key, one.before),
                    "after": _secret_or(one.key, one.after),
                    "effect": one.effect,
                }
                for one in found
            ]
        )
    else:
        for one in found:
            before, after = _secret_or(one.key, one.before), _secret_or(one.key, one.after)
            output.show(f"{_change(one.key, before, after):70}  # {one.effect}")
        if not found:
            output.show("no difference")
    return Exit.FAILED if found else Exit.DONE


def _running() -> Config:
    """Return the configuration of the node that runs here. Raises `VelocityError`."""
    for received in Node().ask(ShowConfig(), timeout_s=10.0):
        if isinstance(received.answer.facts, Configured):
            return Config.from_json(received.answer.facts.config)
    raise VelocityError("cannot compare: the node sent no configuration")


def _change(key: str, before: Any, after: Any) -> str:
    if before is None:
        return f"+ {key} = {after!r}"
    return f"- {key} = {before!r}" if after is None else f"~ {key} = {before!r} -> {after!r}"


def _masked(value: Any, key: str = "") -> Any:
    """Return *value* without secrets: what is printed here is pasted into tickets."""
    if isinstance(value, dict):
        return {name: _masked(below, name) for name, below in value.items()}
    if isinstance(value, list):
        return [_masked(below) for below in value]
    return _secret_or(key, value)


def _secret_or(key: str, value: Any) -> Any:
    return "(secret)" if value is not None and key.rpartition(".")[2] in _SECRETS else value


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
    whole = loaded.origins.get(path[:2], "") if path[:2] in (("content", "sites"), ("content", "proxies")) else ""
    return whole if whole.startswith("-") else None
