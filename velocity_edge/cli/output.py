"""The only place where a command prints: each line printable (velocity_edge/text/printable.py), JSON in ASCII.

Much of what a command shows comes from clients, servers and operators: server names of connections, fields of an
answer, names in a certificate, a reason. No control character of it reaches the terminal. Short because it must stay
the only place.
"""

from __future__ import annotations

from typing import Any

import click

from velocity_edge.text.printable import printable


def show(*lines: str, err: bool = False) -> None:
    """Print *lines*, each on one line, to standard output, or with *err* to standard error."""
    for line in lines:
        click.echo(printable(line), err=err)


def show_json(value: Any, *, indent: bool = True) -> None:
    """Print *value* as JSON."""
    from velocity_edge.text.json_text import json_text

    click.echo(json_text(value, indent=indent).decode())


def show_raw(text: str) -> None:
    """Print *text*, which the command made printable before it added colours."""
    click.echo(text)
