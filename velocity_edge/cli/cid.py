"""`cid decode`: the node and the worker in a connection ID, to read a packet capture."""

from __future__ import annotations

from pathlib import Path

import click

from velocity_edge.cli.output import show, show_json
from velocity_edge.errors import CannotDo
from velocity_edge.keys.file import FileKeySource
from velocity_edge.keys.ring import cid_configs
from velocity_edge.keys.table import EpochTable
from velocity_edge.paths import state_dir
from velocity_edge.wire.cid import CID_LENGTH, CidReader


@click.group()
def cid() -> None:
    """Decode the node and the worker in a connection ID."""


@cid.command()
@click.argument("connection_id")
@click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), help="Key file (tickets.storage) of the node.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def decode(connection_id: str, keys: Path | None, as_json: bool) -> None:
    """Decode CONNECTION_ID (hexadecimal, as Wireshark shows it) with the keys of a node.

    Only the user of the node can read the key file. Without --keys it is the one in the state directory.
    """
    raw = _bytes(connection_id)
    file = keys or state_dir() / "tickets.json"
    table = _table(file)
    # Each epoch by itself, also those whose connection IDs are no longer decoded by workers.
    codecs = (CidReader(cid_configs(EpochTable((epoch,), epoch.epoch))) for epoch in table.epochs)
    owner = next((owner for codec in codecs if (owner := codec.open(raw))), None)
    if owner is None:
        raise CannotDo(f"cannot open {raw.hex()}: no key of the {len(table.epochs)} in {file} fits")
    if as_json:
        show_json({"node_id": owner.node_id, "worker_id": owner.worker_id, "config_id": owner.config_id}, indent=False)
    else:
        show(f"node {owner.node_id}  worker {owner.worker_id}  (key configuration {owner.config_id})")


def _table(file: Path) -> EpochTable:
    table = FileKeySource(file).load()
    if table is None:
        raise CannotDo(f"cannot read the keys of the node: no file {file}; name it with --keys")
    return table


def _bytes(text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.removeprefix("0x").replace(":", ""))
    except ValueError:
        raise click.UsageError(f"cannot read {text!r}: expected hexadecimal digits") from None
    if len(raw) != CID_LENGTH:
        raise CannotDo(
            f"cannot open {text}: {len(raw)} bytes; expected {CID_LENGTH}, the length of connection IDs of a node"
        )
    return raw
