"""`password NAME`: prints an entry for the file of users of a middleware of `kind: basic`.

The password comes from the terminal, twice, or from one line of standard input: never from an argument, which others
can see in the list of processes.
"""

from __future__ import annotations

import os
import sys

import click

from velocity_edge.cli.output import show
from velocity_edge.errors import CannotDo
from velocity_edge.exits import Exit
from velocity_edge.http.passwords import MAX_PASSWORD_BYTES, SALT_BYTES, UnusableEntry, entry


@click.command()
@click.argument("name")
def password(name: str) -> int:
    """Print an entry for NAME: append it to the file of `users` of a `kind: basic` middleware, and reload.

    \b
    velocity-edge password alice >> /etc/velocity/users
    """
    try:
        show(entry(name, _asked(), os.urandom(SALT_BYTES)))
    except UnusableEntry as error:
        raise CannotDo(str(error)) from None
    return Exit.DONE


def _asked() -> bytes:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)).encode()
    # A longer one is read far enough to be refused.
    line = sys.stdin.buffer.readline(MAX_PASSWORD_BYTES + 3)
    return line.rstrip(b"\r\n")
