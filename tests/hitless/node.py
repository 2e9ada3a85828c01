"""velocity-edge as the subject: two workers, the shield on the veth, and changes by an operator's commands.

Reloads change something each time: the certificate, a header of the node, a header of the site, the log level, a limit.
`naive` is the control of the experiment itself: with a drain that does not wait the same run must show losses.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hitless.network import PORT, SERVER_IP, Net
from tests.hitless.subjects import Deed, make_certificate
from tests.support.waiting import poll
from velocity_edge.paths import instance_name

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / ".venv" / "bin" / "velocity-edge"

#: GOAWAYs within half a second, so that twenty restarts fit into minutes; the drain time-out is the default.
DRAIN = "{timeout: 30s, spread: 500ms}"
NAIVE_DRAIN = "{timeout: 100ms, spread: 0s}"


#: pidfd_getfd(2), on every architecture that has it; UDP_GRO of udp(7).
_PIDFD_GETFD, _UDP_GRO = 438, 104


def _borrowed(pid: int, fd: int) -> socket.socket:
    """Return a UDP socket of another process. Raises OSError when it is something else."""
    pidfd = os.pidfd_open(pid)
    try:
        got = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, fd, 0)
    finally:
        os.close(pidfd)
    if got < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    found = socket.socket(fileno=got)
    if found.type is not socket.SOCK_DGRAM or found.family not in (socket.AF_INET, socket.AF_INET6):
        found.close()
        raise OSError("not a UDP socket")
    return found


def _datagrams(sock: socket.socket) -> Iterator[tuple[int, int]]:
    """Yield (bytes, bytes of a segment) of each train that waits."""
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(65536, 512, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        sizes = [int.from_bytes(value[:4], "little") for _, kind, value in ancillary if kind == _UDP_GRO]
        yield len(data), sizes[0] if sizes else max(1, len(data))


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker that was killed."""

    at_s: float
    worker_id: int
    connections: int


@dataclass(slots=True)
class VelocityEdge:
    """Our node."""

    net: Net
    directory: Path
    dice: random.Random
    naive: bool = False
    workers: int = 2
    name: str = "velocity-edge"
    websockets: bool = True
    about: str = "tier C on a veth pair, the native engine, 2 workers"
    deeds: dict[str, Deed] = field(default_factory=dict)
    supervisor: subprocess.Popen[str] | None = None
    kills: list[Kill] = field(default_factory=list)
    generation: int = 0
    refused_rotations: int = 0

    def start(self) -> None:
        """Start the node and wait until it serves."""
        if self.naive:
            self.about += ", with a naive drain (100 ms)"
        self._configure()
        self._spawn()
        self.deeds = {
            "reload": self.reload,
            "restart": lambda: self._roll("restart"),
            "upgrade": lambda: self._roll("upgrade"),
            "rotate": self._rotate,
            "quiesce": self._quiesce_and_resume,
            "worker-kill": self._kill_worker,
            "supervisor-kill": self._kill_supervisor,
        }

    def _configure(self) -> None:
        self.generation += 1
        n = self.generation
        new = self.directory / ".serve.yaml.new"
        new.write_text(
            f"""server:
  listen: "{SERVER_IP}:{PORT}"
  workers: {self.workers}
  server_header: edge-{n // 5}
  log_level: {"debug" if n % 5 == 3 else "info"}
  tls:
    certificate: {self.directory}/cert.pem
    private_key: {self.directory}/key.pem
  drain: {NAIVE_DRAIN if self.naive else DRAIN}
  limits:
    max_glitches_per_s: {200 + (n + 1) // 5}
dispatch:
  interfaces: [s0]
  initials_per_s: 100000
  initials_burst: 100000
content:
  sites:
    - hostname: localhost
      root: {self.directory}/site
      cache_control: max-age={(n + 3) // 5}
  routes:
    - match: {{path: /upload, methods: [POST, PUT]}}
      action: {{type: static, status: 200, body: all of it}}
    - match: {{path: /proxied}}
      action: {{type: proxy, upstream: "unix:{self.directory}/upstream.sock"}}
"""
        )
        if n % 5 == 1:
            make_certificate(self.directory)
        new.rename(self.directory / "serve.yaml")

    def _spawn(self) -> None:
        log = (self.directory / "node.log").open("a")
        self.supervisor = subprocess.Popen(
            self.net.in_server(str(COMMAND), "serve", "--config", str(self.directory / "serve.yaml")),
            env=self._environment(),
            stdout=log,
            stderr=log,
            text=True,
        )
        poll(lambda: self.status().get("state") == "serving", what="the node to serve", timeout_s=30)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "VELOCITY_RUNTIME_DIR": str(self.directory / "run"),
            "VELOCITY_STATE_DIR": str(self.directory / "state"),
            # Compiled packet programs, shared with the tests: bcc takes seconds.
            "VELOCITY_CACHE_DIR": f"/tmp/ve-cache-{os.getuid()}",
        }

    def ask(self, method: str, path: str, body: str | None = None, timeout_s: float = 10.0) -> bytes:
        """Call the admin API. Raises OSError or HTTPException when there is no answer."""
        connection = http.client.HTTPConnection("node", timeout=timeout_s)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(timeout_s)
            connection.sock.connect(str(self.directory / "run" / "admin.sock"))
            connection.request(method, path, body)
            return connection.getresponse().read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """Return the status of the node; empty when it does not answer."""
        try:
            found = json.loads(self.ask("GET", "/v1/status"))
        except (OSError, http.client.HTTPException, ValueError):
            return {}
        return dict(found)

    def dispatch(self) -> dict[str, Any]:
        """Return the counters of the pinned maps (`velocity-edge dispatch status`)."""
        done = self._command("dispatch", "status", "--json", "--instance", instance_name(self.directory / "run"))
        return dict(json.loads(done.stdout)[0])

    def waiting(self) -> tuple[int, int]:
        """Read what still waits in the node's sockets; return (trains, packets). For the end of a run."""
        trains = packets = 0
        assert self.supervisor
        for entry in Path(f"/proc/{self.supervisor.pid}/fd").iterdir():
            if os.readlink(entry).startswith("socket:"):
                with contextlib.suppress(OSError), _borrowed(self.supervisor.pid, int(entry.name)) as borrowed:
                    for size, segment in _datagrams(borrowed):
                        trains += 1
                        packets += -(-size // segment)
        return trains, packets

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.net.in_server(str(COMMAND), *arguments),
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )

    def _admin(self, *arguments: str) -> str:
        poll(lambda: self.status().get("state") == "serving", what="a node that can be told", timeout_s=60)
        done = self._command("admin", *arguments)
        said = (done.stdout.strip().splitlines() or [""])[-1] + done.stderr.strip()[-200:]
        return "" if done.returncode == 0 else f"exit {done.returncode}: {said}"

    def _roll(self, verb: str) -> str:
        """Restart or upgrade; wait first for one that the successor of a killed supervisor finishes."""
        deadline_s = time.monotonic() + 120
        while "is under way" in (note := self._admin(verb, "--timeout", "90s")) and time.monotonic() < deadline_s:
            time.sleep(1.0)
        return note

    def reload(self) -> str:
        """Change something and reload; every worker must have it afterwards."""
        self._configure()
        if note := self._admin("reload"):
            return note
        # The watch on the files may be at the next revision already.
        poll(lambda: len(self._revisions()) == 1, what="the same revision in all workers", timeout_s=20)
        return ""

    def _revisions(self) -> set[int]:
        return {w["revision"] for w in self.status().get("workers", ()) if w["state"] == "ready"}

    def _rotate(self) -> str:
        """A new epoch. A refusal is right while connections still hold ids of the epoch that would be removed."""
        said = self.ask("POST", "/v1/tickets/rotate", "{}", 60).decode()
        self.refused_rotations += "are in use" in said
        return "" if '"exit_code": 0' in said or "are in use" in said else said[-200:]

    def _quiesce_and_resume(self) -> str:
        return self._admin("quiesce", "--mode", "discourage") or self._admin("resume")

    def _kill_worker(self) -> str:
        ready = [w for w in self.status().get("workers", ()) if w["state"] == "ready"]
        if not ready:
            return "no worker was ready"
        victim = self.dice.choice(ready)
        self.kills.append(Kill(time.time(), victim["worker_id"], victim["connections"]))
        os.kill(victim["pid"], signal.SIGKILL)
        return ""

    def _kill_supervisor(self) -> str:
        """SIGKILL, while every core has a worker: without systemd's fd store the sockets of a core are lost."""
        assert self.supervisor
        poll(self._complete, what="a worker on each core", timeout_s=60)
        os.kill(self.supervisor.pid, signal.SIGKILL)
        self.supervisor.wait(10)
        self._spawn()
        return ""

    def _complete(self) -> bool:
        workers = self.status().get("workers", ())
        return {w["core"] for w in workers if w["state"] == "ready"} == set(range(self.workers))

    def stop(self) -> None:
        """Drain for a moment, then go."""
        if self.supervisor:
            self.supervisor.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.supervisor.wait(15)
