"""Nodes with reduced rights, as in containers: arguments for `running_node(within=...)`, and failed starts.

    with running_node(within=confined(keep=DOCKER), dispatch="auto") as node: ...
    refused(limits={"NOFILE": [40, 40]}) == (5, "velocity-edge: cannot open ...")

The keys are those of confine.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.node import COMMAND, Node

_LAUNCHER = Path(__file__).with_name("confine.py")
#: Files that another user must be able to read to run a node.
_TREES = (Path(__file__).parents[2], Path(sys.prefix), Path(sys.base_prefix))


def confined(owner: int | None = None, **wanted: Any) -> list[str]:
    """Return a command prefix that runs a command with these rights. *owner*: the owner of the node's directory."""
    if owner is not None:
        wanted["prepare"] = f'chown -R {owner}:{owner} "${{VELOCITY_RUNTIME_DIR%/run}}"\n{_visible()}'
    return [sys.executable, str(_LAUNCHER), json.dumps(wanted)]


def refused(*options: str, **wanted: Any) -> tuple[int, str]:
    """Start a node that must fail; return its exit code and its output."""
    directory = Path(tempfile.mkdtemp(prefix="ve-", dir="/tmp"))
    directory.chmod(0o755)
    (directory / "root").mkdir()
    places = {f"VELOCITY_{name.upper()}_DIR": str(directory / name) for name in ("run", "state", "cache")}
    environment = os.environ | places | {"VELOCITY_RUNTIME_DIR": str(directory / "run")}
    argv = [*confined(**wanted), COMMAND, "serve", "--root", directory / "root", "--self-signed"]
    try:
        done = subprocess.run(
            [*argv, "--listen", "127.0.0.1:0", "--workers", "1", *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return done.returncode, done.stdout.strip().replace(str(directory), "DIRECTORY")


def inside(node: Node, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as the node's root: in its user namespace, if it has one of its own."""
    pid = node.process.pid
    own = os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    enter = ["nsenter", "-t", str(pid), "--user", "--mount"] if own else []
    return subprocess.run(
        [*enter, *argv], env=node.environment, capture_output=True, text=True, timeout=60, check=False
    )


def workers(node: Node) -> list[dict[str, str]]:
    """Return /proc/PID/status of each worker, as seen from here."""
    seen: dict[str, tuple[dict[str, str], bytes]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            lines = (path / "status").read_text().splitlines()
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        seen[path.name] = dict(line.split(":\t", 1) for line in lines if ":\t" in line), command
    # A child can have a smaller number than its parent: numbers are used again.
    family, found = {str(node.process.pid)}, []
    while grown := [pid for pid, (fields, _) in seen.items() if pid not in family and fields["PPid"] in family]:
        family.update(grown)
        found += [seen[pid][0] for pid in grown if seen[pid][1].startswith(b"velocity-edge: worker ")]
    return found


def _visible() -> str:
    """Return shell lines that let every user reach the interpreter and the tree, where a folder above forbids it."""
    closed: dict[Path, list[Path]] = {}
    for tree in dict.fromkeys(_TREES):
        above = [path for path in reversed(tree.parents) if not path.stat().st_mode & 0o001]
        if above:
            closed.setdefault(above[0], []).append(tree)
    lines: list[str] = []
    for folder, trees in closed.items():
        lines += ["mount -t tmpfs -o mode=755 tmpfs /mnt"]
        for index, tree in enumerate(trees):
            lines += [f"mkdir /mnt/{index}", f"mount --rbind '{tree}' /mnt/{index}"]
        lines += [f"mount -t tmpfs -o mode=755 tmpfs '{folder}'"]
        for index, tree in enumerate(trees):
            lines += [f"mkdir -p -m 755 '{tree}'", f"mount --move /mnt/{index} '{tree}'"]
        lines += ["umount /mnt"]
    return "\n".join(lines)
