"""A real node for a test: `velocity-edge serve` with its own directories, on a free port of the loopback address.

    with running_node(tmp, engine="portable", workers=2) as node:
        node.port, node.ca, node.status()["counters"]

It is ready when `GET /v1/status` shows every worker as ready. At the end it must stop on SIGTERM with exit code
0, and its log must not contain a traceback: otherwise the test fails.

The dispatch is `socket` (sk_reuseport, no XDP) unless a test says otherwise: with `auto` a node that listens on the
loopback address would attach its shield to `lo`, and affect every other test.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.certificates import Certificate, make_certificate
from tests.support.waiting import poll
from velocity_edge.status.document import NodeStatus

COMMAND = Path(sys.executable).parent / "velocity-edge"
#: What `engine` can be, for parametrize.
ENGINES = ("portable", "native")


def require_engine(name: str) -> None:
    """Skip when this engine is not built here."""
    if name == "native":
        try:
            importlib.import_module("velocity_edge.quic.native")
        except ImportError as error:
            pytest.skip(f"no native engine: {error}")


@dataclass(slots=True)
class Node:
    """A serving node: paths, its certificate, and its status."""

    directory: Path
    root: Path
    certificate: Certificate
    process: subprocess.Popen[bytes]
    environment: dict[str, str] = field(repr=False)
    port: int = 0
    host: str = "localhost"
    program: Sequence[str | Path] = (COMMAND,)

    @property
    def ca(self) -> Path:
        """The certificate that a client must trust."""
        return self.certificate.chain

    @property
    def log(self) -> str:
        """Everything the node printed so far."""
        return (self.directory / "log").read_text(errors="replace")

    def url(self, path: str = "/") -> str:
        """An address whose host name is in the certificate."""
        return f"https://{self.host}:{self.port}{path}"

    def admin(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        """Call the admin API; return status and body."""
        connection = http.client.HTTPConnection("node", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(10)
            connection.sock.connect(str(self.directory / "run" / "admin.sock"))
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self) -> NodeStatus:
        """`GET /v1/status`."""
        code, body = self.admin("GET", "/v1/status")
        assert code == 200, body
        status: NodeStatus = json.loads(body)
        return status

    def counter(self, name: str, at_least: int) -> int:
        """Wait until a counter has this value (workers publish once per second); return it."""
        return poll(lambda: (value := self.status()["counters"][name]) >= at_least and value, f"{name} >= {at_least}")

    def command(self, *argv: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run `velocity-edge ARGV` against this node."""
        return subprocess.run(
            [*self.program, *argv], env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )


# The node waits for a client that was killed during a response, up to `server.drain.timeout` (30 s).
STOPS_WITHIN_S = 45.0


@contextmanager
def running_node(
    *options: str,
    engine: str = "auto",
    workers: int = 1,
    dispatch: str | None = None,
    root: Path | None = None,
    listen: str = "127.0.0.1:0",
    config: str = "",
    program: Sequence[str | Path] = (COMMAND,),
    within: Sequence[str] = (),
    host: str = "localhost",
    tracebacks: bool = False,
) -> Iterator[Node]:
    """Start a node with these further options of `serve`, wait until it serves, stop it and look at how it ended.

    With *config* it is started from a file of that text (`serve.yaml` in its directory), in which DIRECTORY is a path,
    and has no flags but the dispatch; *workers* is the number to wait for. *program* is the `velocity-edge` to run,
    *within* a command that runs it elsewhere (nsenter), *host* where clients find it then. *tracebacks*: one is no
    failure, because the test removes something that a process requires.
    """
    require_engine(engine)
    directory = Path(tempfile.mkdtemp(prefix="ve-", dir="/tmp"))  # short: a socket's path has 107 bytes
    directory.chmod(0o755)  # clients of the sid root and workers without rights must reach it
    if root is None:
        root = directory / "root"
        root.mkdir()
        (root / "index.html").write_text("<!doctype html><title>it works</title><p>served by velocity-edge</p>")
    certificate = make_certificate(directory, "localhost", "127.0.0.1", "::1", "velocity.test", "10.9.0.2")
    environment = {
        **os.environ,
        "VELOCITY_RUNTIME_DIR": str(directory / "run"),
        "VELOCITY_STATE_DIR": str(directory / "state"),
        # Compiled packet programs, shared by all nodes of all runs: bcc takes seconds.
        "VELOCITY_CACHE_DIR": f"/tmp/ve-cache-{os.getuid()}",
    }
    mode = dispatch or ("socket" if os.geteuid() == 0 else "socket-classic")
    argv: list[str | Path] = [*within, *program, "serve"]
    if config:
        (directory / "serve.yaml").write_text(config.replace("DIRECTORY", str(directory)))
        argv += ["--config", directory / "serve.yaml"]
    else:
        argv += ["--listen", listen, "--root", root, "--workers", str(workers), "--engine", engine]
        argv += ["--cert", certificate.chain, "--key", certificate.key]
    argv += ["--dispatch", mode, *options]
    with (directory / "log").open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env=environment)
    node = Node(directory, root, certificate, process, environment, host=host, program=program)
    try:
        _wait_until_serving(node, workers)
        yield node
        node.process.send_signal(signal.SIGTERM)
        code = node.process.wait(STOPS_WITHIN_S)
        assert code == 0, f"the node ended with {code}:\n{node.log[-3000:]}"
        assert tracebacks or "Traceback" not in node.log, node.log[-5000:]
        assert tracebacks or "imported after" not in node.log, node.log[-5000:]
    except BaseException:
        sys.stderr.write(f"--- log of the node ---\n{node.log[-6000:]}\n")
        raise
    finally:
        _kill(node)
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_serving(node: Node, workers: int) -> None:
    def serving() -> bool:
        assert node.process.poll() is None, f"the node ended with {node.process.returncode}:\n{node.log[-3000:]}"
        try:
            status = node.status()
        except (OSError, http.client.HTTPException, AssertionError):
            return False
        ready = [worker for worker in status["workers"] if worker["state"] == "ready"]
        if status["state"] != "serving" or len(ready) < workers:
            return False
        node.port = int(status["listeners"][0].rpartition(":")[2])
        return True

    poll(serving, "a node that serves", timeout_s=30)


def _kill(node: Node) -> None:
    """In any case: no process and no pin remains."""
    workers = [worker["pid"] for worker in _last_status(node)]
    if node.process.poll() is None:
        node.process.kill()
        node.process.wait()
    else:
        return
    for pid in workers:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    node.command("dispatch", "detach")


def _last_status(node: Node) -> list[dict[str, int]]:
    try:
        status = node.status()
        # In its own pid namespace: its numbers mean other processes here, and its processes end with the first one.
        if status["pid"] != node.process.pid:
            return []
        return [{"pid": worker["pid"]} for worker in status["workers"]]
    except (OSError, http.client.HTTPException, AssertionError):
        return []
