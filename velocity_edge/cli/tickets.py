"""`tickets`: the keys of sessions, address tokens, resets and connection IDs (velocity_edge/keys/table.py), by epoch.

Reading is GET /v1/tickets, changing a POST whose lines are printed as for `admin`. Encrypting an export and opening an
import happens here (velocity_edge/keys/backup.py): the passphrase never reaches the node.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from velocity_edge.cli.admin import Duration, ask
from velocity_edge.cli.node import TIMEOUT_S, Node
from velocity_edge.cli.output import show, show_json
from velocity_edge.cli.units import count, duration
from velocity_edge.errors import CannotDo, Unreachable
from velocity_edge.exits import Exit
from velocity_edge.status.document import KeyEpoch

_SECONDS = Duration()
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_REASON = click.option("--reason", default="", help='Why, for the log and for colleagues: "CHG-1234".')
_TIMEOUT = click.option(
    "--timeout", type=_SECONDS, default="10m", help="Wait no longer for connections than this (10m); the node goes on."
)
_SPREAD = click.option("--spread", type=_SECONDS, help="Ask connections to leave over this time (server.drain.spread).")
_PASSPHRASE = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help="Where the passphrase is, in the first line; asked for on a terminal otherwise.",
)
_COLUMNS = ("epoch", "age", "state", "opens until", "connections")


@click.group()
def tickets() -> None:
    """Rotate, back up and expire the keys of sessions, tokens, resets and connection IDs."""


@tickets.command(name="list")
@_JSON
def list_(as_json: bool) -> int:
    """Show the epochs: which one seals, what opens until when, and how many connections live on each."""
    found = Node().keys()
    if as_json:
        show_json(found)
    else:
        show(*table(found["epochs"], time.time()))
    return Exit.DONE


@tickets.command()
@click.option("--move", is_flag=True, help="Have connections leave the connection IDs of earlier epochs, and wait.")
@_SPREAD
@_TIMEOUT
@_REASON
@_JSON
def rotate(move: bool, spread: float | None, timeout: float, reason: str, as_json: bool) -> int:
    """Begin a new epoch: every worker accepts it, then it seals. Nothing is lost; asking again is no error."""
    return _change("rotate", {"move": move}, spread, timeout, reason, as_json)


@tickets.command()
@click.option("--all", "everything", is_flag=True, help="All that are there now. A new one begins first.")
@click.option("--older-than", type=_SECONDS, help="Those that began longer ago than this: 7d.")
@click.option("--epoch", type=int, help="This one.")
@_SPREAD
@_TIMEOUT
@_REASON
@_JSON
def expire(
    everything: bool,
    older_than: float | None,
    epoch: int | None,
    spread: float | None,
    timeout: float,
    reason: str,
    as_json: bool,
) -> int:
    """Have epochs open nothing any more: their sessions do full handshakes, their tokens prove nothing.

    A new epoch begins first when the one that seals is meant. Connections on their connection IDs are moved, and waited
    for; those that are still there when the time is up go on (exit code 4), and asking again waits for them.
    """
    which: dict[str, Any] = {"all": True} if everything else {}
    if older_than is not None:
        which["older_than_s"] = older_than
    if epoch is not None:
        which["epoch"] = epoch
    if len(which) != 1:
        raise click.UsageError("cannot expire: one of --all, --older-than and --epoch would be right")
    return _change("expire", which, spread, timeout, reason, as_json)


@tickets.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file; it must not be there yet.")
@click.option("--plain", is_flag=True, help="Not encrypted: whoever reads it can open every session of this node.")
@_PASSPHRASE
@_REASON
def export(out: Path, plain: bool, passphrase_file: Path | None, reason: str) -> int:
    """Write all keys to a file, encrypted with a passphrase, for a backup or another node."""
    from velocity_edge.atomic_file import replace_file
    from velocity_edge.keys import backup

    if out.exists() or out.is_symlink():
        raise CannotDo(f"cannot write {out}: it is there already; another name would be right")
    passphrase = b"" if plain else _passphrase(passphrase_file, new=True)
    answer = _last("export", {}, reason)
    content = backup.plain(answer["document"]) if plain else backup.seal(answer["document"], passphrase, os.urandom)
    try:
        replace_file(out, content, 0o600)
    except OSError as error:
        raise CannotDo(f"cannot write {out}: {error.strerror}") from None
    show(f"{answer['text']} to {out}{', NOT encrypted' if plain else ''}")
    return Exit.DONE


@tickets.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Go on with these keys instead of our own, once everybody has them.")
@_PASSPHRASE
@_TIMEOUT
@_REASON
@_JSON
def import_(file: Path, replace: bool, passphrase_file: Path | None, timeout: float, reason: str, as_json: bool) -> int:
    """Take in the keys of FILE: what they sealed opens here too. What seals stays, unless --replace is given."""
    from velocity_edge.keys import backup
    from velocity_edge.keys.document import from_document

    content = _read(file, backup.MAX_FILE_BYTES)
    encrypted = backup.is_encrypted(content)
    document = backup.unseal(content, _passphrase(passphrase_file, new=False) if encrypted else b"")
    from_document(document, str(file))
    body = {"document": document, "replace": replace}
    return _change("import", body, None, timeout, reason, as_json)


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


def _change(
    verb: str, body: dict[str, Any], spread_s: float | None, timeout_s: float, reason: str, as_json: bool
) -> int:
    body |= {"timeout_s": timeout_s} | ({} if spread_s is None else {"spread_s": spread_s})
    return ask(f"tickets/{verb}", body, reason, as_json, timeout_s)


def _last(verb: str, body: dict[str, Any], reason: str) -> dict[str, Any]:
    lines = list(Node().lines(f"/v1/tickets/{verb}", body | {"reason": reason}, timeout_s=TIMEOUT_S))
    last = lines[-1] if lines else {}
    if "document" not in last:
        raise Unreachable("cannot understand the node: its answer has no keys in it")
    return last


def _read(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise CannotDo(f"cannot read {file}: {error.strerror}") from None
    if len(content) > most:
        raise CannotDo(f"cannot read {file}: larger than {most} bytes, so not a file of `tickets export`")
    return content


def _passphrase(file: Path | None, *, new: bool) -> bytes:
    if file is not None:
        passphrase = _read(file, 65_536).split(b"\n", 1)[0].rstrip(b"\r")
    elif sys.stdin.isatty():
        passphrase = click.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True).encode()
    else:
        raise CannotDo("cannot ask for a passphrase: this is no terminal; --passphrase-file would be right")
    if not passphrase:
        raise CannotDo("cannot use an empty passphrase")
    return bytes(passphrase)
