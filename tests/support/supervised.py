"""A real supervisor with fake workers (pretend_worker.py), in its own directories.

    with supervised("good", workers=2) as node:
        node.post("restart"); node.status()["workers"]

It serves an echo on loopback UDP; `Pinger` records what was not answered. Tier A (`socket-classic`)
by default: nothing global on the machine is touched.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.waiting import poll

PROGRAM = Path(__file__).with_name("pretend_worker.py")


@dataclass
class Supervised:
    directory: Path
    character: str
    settings: dict[str, Any]
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a supervisor: the first, or a successor."""
        program = json.dumps([sys.executable, "-I", str(PROGRAM), self.character])
        argv = [sys.executable, "-I", "-m", "supervisor", "--set", json.dumps(self.settings)]
        with open(self.directory / "log", "ab") as log:
            process = subprocess.Popen(
                [*argv, "--worker-program", program, *options], env=self.environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.processes[-1]

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection("node", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(20)
            connection.sock.connect(str(self.directory / "run" / "admin.sock"))
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, f"/v1/{path}", None if body is None else json.dumps(body), names)
            answer = connection.getresponse()
            data = answer.read()
            kind = answer.headers.get_content_type()
            if kind == "application/x-ndjson":
                return answer.status, [json.loads(line) for line in data.splitlines()], dict(answer.headers)
            return answer.status, json.loads(data) if kind == "application/json" else data, dict(answer.headers)
        finally:
            connection.close()

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        code, answer, _ = self.request("POST", path, body)
        return code, answer

    def status(self) -> dict[str, Any]:
        code, answer, _ = self.request("GET", "status")
        assert code == 200, answer
        return dict(answer)

    def wait_until(self, what: str, condition: Any, timeout_s: float = 20.0) -> dict[str, Any]:
        """Return the first status for which *condition* holds."""

        def look() -> Any:
            if self.process.poll() is not None:
                raise AssertionError(f"the supervisor ended with {self.process.returncode}:\n{self.log}")
            try:
                status = self.status()
            except OSError:
                return None
            return status if condition(status) else None

        return dict(poll(look, what, timeout_s))

    def wait_for_serving(self) -> dict[str, Any]:
        count = self.settings["server.workers"]
        return self.wait_until(
            "the node serves",
            lambda s: s["state"] == "serving" and sum(w["state"] == "ready" for w in s["workers"]) >= count,
        )

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.status()["listeners"][0].rpartition(":")
        return host, int(port)

    def ended(self, timeout_s: float = 20.0) -> int:
        return self.process.wait(timeout_s)


@contextmanager
def supervised(
    character: str = "good", *, workers: int = 1, start: bool = True, **settings: Any
) -> Iterator[Supervised]:
    """Start a supervisor and stop it at the end; no worker remains in any case."""
    directory = Path(tempfile.mkdtemp(prefix="ve-", dir="/tmp"))
    root = directory / "root"
    root.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VELOCITY_") or k == "VELOCITY_TEST_RUN"}
    environment |= {
        "VELOCITY_RUNTIME_DIR": str(directory / "run"),
        "VELOCITY_STATE_DIR": str(directory / "state"),
        "VELOCITY_CACHE_DIR": str(directory / "cache"),
    }
    basic = {
        "server.listen": ["127.0.0.1:0"],
        "server.workers": workers,
        "server.tls.self_signed": True,
        "dispatch.mode": "socket-classic",
        "content.sites": [{"hostname": "*", "root": str(root)}],
    }
    node = Supervised(directory, character, basic | {k.replace("__", "."): v for k, v in settings.items()}, environment)
    try:
        if start:
            node.start()
            node.wait_for_serving()
        yield node
    finally:
        for process in node.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        left = _workers_left(directory)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        if "Traceback" in node.log:
            raise AssertionError(f"a traceback in the log:\n{node.log}")
        shutil.rmtree(directory)


def _workers_left(directory: Path) -> list[int]:
    """Workers of a supervisor that was killed and had no successor."""
    try:
        saved = json.loads((directory / "run" / "state.json").read_text())
    except FileNotFoundError:
        return []
    return [w["pid"] for w in saved["workers"] if PROGRAM.name in _command(w["pid"])]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


class Pinger:
    """Sends to the echo all the time, from many ports, and records unanswered datagrams and who answered."""

    def __init__(self, address: tuple[str, int], sockets: int = 64) -> None:
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(sockets)]
        for sock in self._sockets:
            sock.connect(address)
            sock.settimeout(0.0)
        self.asked = 0
        self.waiting: set[int] = set()
        self.answered_by: dict[int, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Pinger":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            self.waiting.add(self.asked)
            # The head of an Initial with a random connection ID of 8 bytes: a new connection, by all tiers.
            initial = b"\xc0\0\0\0\1\x08" + os.urandom(8) + bytes(32)
            self._sockets[self.asked % len(self._sockets)].send(initial + b" %d" % self.asked)
            self.asked += 1
            self._collect()

    def _collect(self) -> None:
        for sock in self._sockets:
            try:
                while True:
                    answer = sock.recv(128)
                    worker, number = int(answer.split(b" ", 1)[0]), int(answer.rsplit(b" ", 1)[1])
                    self.waiting.discard(number)
                    self.answered_by[worker] = self.answered_by.get(worker, 0) + 1
            except BlockingIOError:
                pass

    def finish(self) -> None:
        """Stop sending, and wait for answers in flight."""
        self._stop.set()
        self._thread.join()

        def nothing_waits() -> bool:
            self._collect()
            return not self.waiting

        poll(nothing_waits, "an answer to every datagram", 5.0)
