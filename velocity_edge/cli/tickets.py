"""`tickets`: the keys of sessions, address tokens, resets and connection IDs (velocity_edge/keys/table.py), by epoch.

Changes print the answer of the node, as `admin` does. An export is encrypted and an import decrypted here
(velocity_edge/keys/backup.py): the passphrase is never sent to the node.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from velocity_edge.admin.answers import Exported
from velocity_edge.admin.requests import ExpireKeys, ExportKeys, ImportKeys, RotateKeys
from velocity_edge.cli.asking import ask, reason_or_user
from velocity_edge.cli.node import TIMEOUT_S, Node
from velocity_edge.cli.options import SECONDS, answers_as_json, as_json_option, reason_option, timeout_option
from velocity_edge.cli.output import show, show_json
from velocity_edge.cli.units import count, duration
from velocity_edge.errors import CannotDo, Unreachable
from velocity_edge.exits import Exit
from velocity_edge.status.document import KeyEpoch

_timeout_option = timeout_option("10m", "Wait at most this long for connections; the node goes on")
_spread_option = click.option(
    "--spread", type=SECONDS, help="Ask connections to move over this time (server.drain.spread)."
)
_passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help="File with the passphrase in its first line; without it, the terminal asks.",
)
_COLUMNS = ("epoch", "age", "state", "opens until", "connections")


@click.group()
def tickets() -> None:
    """Rotate, back up and expire the keys of sessions, tokens, resets and connection IDs."""


@tickets.command(name="list")
@as_json_option
def list_(as_json: bool) -> int:
    """Show the epochs: which one seals, what opens until when, and how many connections use each."""
    found = Node().keys()
    if as_json:
        show_json(found)
    else:
        show(*table(found["epochs"], time.time()))
    return Exit.DONE


@tickets.command()
@click.option("--move", is_flag=True, help="Have connections leave the connection IDs of earlier epochs, and wait.")
@_spread_option
@_timeout_option
@reason_option
@answers_as_json
def rotate(move: bool, spread: float | None, timeout: float, reason: str, as_json: bool) -> int:
    """Begin a new epoch: every worker accepts it, then it seals. Nothing is lost, also when this is repeated."""
    request = RotateKeys(move=move, spread_s=spread, timeout_s=timeout, reason=reason_or_user(reason))
    return ask(request, as_json, timeout)


@tickets.command()
@click.option("--all", "everything", is_flag=True, help="All epochs that exist now. A new one begins first.")
@click.option("--older-than", type=SECONDS, help="The epochs that began longer ago than this: 7d.")
@click.option("--epoch", type=int, help="The epoch with this number.")
@_spread_option
@_timeout_option
@reason_option
@answers_as_json
def expire(
    everything: bool,
    older_than: float | None,
    epoch: int | None,
    spread: float | None,
    timeout: float,
    reason: str,
    as_json: bool,
) -> int:
    """Stop accepting what epochs sealed: existing sessions fall back to a full handshake, tokens are ignored.

    A new epoch begins first if the sealing one is selected. Connections that use connection IDs of these epochs are
    moved, and waited for; those that are left when the time is up go on (exit code 4); repeat the command to wait
    again.
    """
    if [everything, older_than is not None, epoch is not None].count(True) != 1:
        raise click.UsageError("cannot expire: expected one of --all, --older-than and --epoch")
    request = ExpireKeys(
        all=everything,
        older_than_s=older_than,
        epoch=epoch,
        spread_s=spread,
        timeout_s=timeout,
        reason=reason_or_user(reason),
    )
    return ask(request, as_json, timeout)


@tickets.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write; it must not exist.")
@click.option(
    "--plain", is_flag=True, help="Do not encrypt: whoever reads the file can open every session of the node."
)
@_passphrase_option
@reason_option
def export(out: Path, plain: bool, passphrase_file: Path | None, reason: str) -> int:
    """Write all keys to a file, encrypted with a passphrase, as a backup or for another node."""
    from velocity_edge.atomic_file import replace_file
    from velocity_edge.keys import backup

    if out.exists() or out.is_symlink():
        raise CannotDo(f"cannot write {out}: it exists; expected a name that does not")
    passphrase = b"" if plain else _passphrase(passphrase_file, new=True)
    text, document = _exported(reason)
    content = backup.plain(document) if plain else backup.seal(document, passphrase, os.urandom)
    try:
        replace_file(out, content, 0o600)
    except OSError as error:
        raise CannotDo(f"cannot write {out}: {error.strerror}") from None
    show(f"{text} to {out}{', NOT encrypted' if plain else ''}")
    return Exit.DONE


@tickets.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Use these keys in place of the node's own, once all workers have them.")
@_passphrase_option
@_timeout_option
@reason_option
@answers_as_json
def import_(file: Path, replace: bool, passphrase_file: Path | None, timeout: float, reason: str, as_json: bool) -> int:
    """Accept what the keys in FILE sealed. The sealing key stays, unless --replace is given."""
    from velocity_edge.keys import backup
    from velocity_edge.keys.document import from_document

    content = _read(file, backup.MAX_FILE_BYTES)
    encrypted = backup.is_encrypted(content)
    document = backup.unseal(content, _passphrase(passphrase_file, new=False) if encrypted else b"")
    from_document(document, str(file))
    request = ImportKeys(document=document, replace=replace, timeout_s=timeout, reason=reason_or_user(reason))
    return ask(request, as_json, timeout)


def table(rows: list[KeyEpoch], now_s: float) -> Iterator[str]:
    """Yield the lines of `tickets list`. *now_s*: seconds since 1970."""
    cells = [_COLUMNS, *(_row(row, now_s) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    for line in cells:
        padded = (
            cell.ljust(width) if name in ("state", "opens until") else cell.rjust(width)
            for cell, width, name in zip(line, widths, _COLUMNS, strict=True)
        )
        yield "  ".join(padded).rstrip()


def _row(row: KeyEpoch, now_s: float) -> tuple[str, ...]:
    until_s = row["opens_until_s"]
    if until_s is None:
        until = "-"
    elif until_s <= now_s:
        until = "expired"
    else:
        when = time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(until_s))
        until = f"{when}, {duration(until_s - now_s)}"
    connections = count(row["connections"]) if row["ids_live"] else "-"
    return str(row["epoch"]), duration(row["age_s"]), row["state"], until, connections


def _exported(reason: str) -> tuple[str, Any]:
    """Return the text and the keys that the node answers."""
    request = ExportKeys(reason=reason_or_user(reason))
    for received in Node().ask(request, timeout_s=TIMEOUT_S):
        if isinstance(received.answer.facts, Exported):
            return received.answer.text, received.answer.facts.document
    raise Unreachable("cannot understand the node: its answer has no keys in it")


def _read(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise CannotDo(f"cannot read {file}: {error.strerror}") from None
    if len(content) > most:
        raise CannotDo(f"cannot read {file}: larger than {most} bytes, so `tickets export` did not write it")
    return content


def _passphrase(file: Path | None, *, new: bool) -> bytes:
    if file is not None:
        passphrase = _read(file, 65_536).split(b"\n", 1)[0].rstrip(b"\r")
    elif sys.stdin.isatty():
        passphrase = click.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True).encode()
    else:
        raise CannotDo("cannot ask for a passphrase: standard input is not a terminal; use --passphrase-file")
    if not passphrase:
        raise CannotDo("cannot use an empty passphrase")
    return bytes(passphrase)
