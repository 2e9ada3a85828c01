"""Workers of a dead supervisor are found, named and ended, also when all files of their node have been removed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.node import COMMAND, ENGINES, Node, running_node
from tests.support.waiting import poll


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    except OSError:
        return ""


def orphaned(node: Node) -> int:
    """Kill the supervisor; return the process id of its worker."""
    [worker] = node.status()["workers"]
    node.process.kill()
    node.process.wait()
    poll(lambda: "without supervisor" in title(worker["pid"]), "the worker to notice")
    return worker["pid"]


def serve(node: Node) -> list[str]:
    """Return the arguments of another node on the same port."""
    options = ["serve", "--listen", f"127.0.0.1:{node.port}", "--root", str(node.root), "--workers", "1"]
    certificate = ["--cert", str(node.certificate.chain), "--key", str(node.certificate.key)]
    return [*options, *certificate, "--dispatch", "socket-classic"]


@pytest.mark.parametrize("engine", ENGINES)
def test_start_names_the_orphan_that_holds_the_port(engine: str) -> None:
    with running_node(engine=engine) as node:
        pid, run = orphaned(node), node.directory / "run"
        shutil.rmtree(run)
        for runtime, prefix in ((node.directory / "other", f"VELOCITY_RUNTIME_DIR={run} "), (run, "")):
            node.environment["VELOCITY_RUNTIME_DIR"] = str(runtime)
            refused = node.command(*serve(node))
            assert refused.returncode == 1, refused.stderr
            assert "another program listens there: worker" in refused.stderr
            assert f"of the node in {run} (process {pid}), which has no supervisor, since 2" in refused.stderr
            assert f"`{prefix}velocity-edge admin stop --orphans` ends it" in refused.stderr
        ended = node.command("admin", "stop", "--orphans")
        assert (ended.returncode, ended.stdout.split(",")[0].strip()) == (0, "1 workers ended")
        assert title(pid) == "", "gone, reaped or not"
        with (node.directory / "log").open("ab") as log:
            node.process = subprocess.Popen([COMMAND, *serve(node)], stdout=log, stderr=log, env=node.environment)
        poll((run / "admin.sock").exists, "the next node")
        poll(lambda: node.status()["state"] == "serving", "the next node to serve")
