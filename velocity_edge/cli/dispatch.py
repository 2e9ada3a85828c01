"""`dispatch`: the packet programs of a node, as the kernel has them. Works without a running supervisor.

Pins (bpf/pins.py) keep the programs attached when their supervisor is dead; this verb shows and removes them. A process
of its own, `python -m bpf`, reads and removes them, because this package must not import that one
(docs/architecture.md).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click

from velocity_edge.cli.node import Node
from velocity_edge.cli.output import show, show_json
from velocity_edge.cli.units import count
from velocity_edge.errors import CannotDo, Unreachable
from velocity_edge.exits import Exit
from velocity_edge.paths import instance_name, runtime_dir


@click.group()
def dispatch() -> None:
    """Show the packet programs of this machine, or detach them."""


@dispatch.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--instance", help="Only this instance (default: all that are pinned).")
def status(as_json: bool, instance: str | None) -> int:
    """Show the attached programs, the workers that get new connections, and packets by verdict."""
    found = _bpf("status", *([instance] if instance else []))
    if as_json:
        show_json(found)
    elif not found:
        show("No packet programs are pinned here: the node uses tier A, or there is none.")
    else:
        for number, each in enumerate(found):
            show(*([""] if number else []), *_lines(each))
    return Exit.DONE


@dispatch.command()
@click.option("--instance", help="The instance (default: that of this runtime directory).")
@click.option("--force", is_flag=True, help="Even if the node is running: it continues without its shield.")
def detach(instance: str | None, force: bool) -> int:
    """Remove the shield from all interfaces, and all pins. Sockets that are open keep their programs."""
    name = instance or instance_name(runtime_dir())
    if not force and name == instance_name(runtime_dir()) and _runs():
        raise CannotDo(
            "cannot detach: the node is running; stop it first, or use --force and it continues without its shield"
        )
    done = _bpf("detach", name)
    show(f"Detached {name}." if done["detached"] else f"Nothing of {name} is attached.")
    return Exit.DONE


def _runs() -> bool:
    try:
        Node().status()
    except Unreachable:
        return False
    return True


def _bpf(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, "-I", "-m", "bpf", *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 1 and done.stderr.startswith("cannot"):
        raise CannotDo(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"python -m bpf: exit {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    gone = [name for name, there in found["interfaces"].items() if not there]
    there = [name for name, there in found["interfaces"].items() if there]
    yield f"{found['instance']}: shield on {', '.join(there) or 'no interface'}" + (
        f"; gone: {', '.join(gone)}" if gone else ""
    )
    yield f"listens on {', '.join(found['listeners']) or 'nothing'}; CID configurations {found['cid_configs']}"
    for worker_id, worker in found["workers"].items():
        share = f"{100 * worker['share_of_new']:.0f} % of new" if worker["share_of_new"] else "no new"
        yield f"  worker {worker_id:>5}  slot {worker['slot']:>3}  cpu {worker['cpu']:>3}  {share}"
    limit = f"{count(found['initials_per_s'])} new/s per prefix" if found["initials_per_s"] else "no limit"
    attack = ", attack mode" if found["attack"] else ""
    yield f"{limit}, {found['denied_networks']} networks denied{attack}; {count(found['pins'])} handshakes pinned"
    for stage, verdicts in found["counters"].items():
        for name, number in verdicts.items():
            if number:
                yield f"  {stage:7} {name:26} {count(number):>16}"
