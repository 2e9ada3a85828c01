"""The load: quic-go (client/main.go), curl and our load generator, in the client's namespace, until they are stopped.

Their output is read when they have ended: lists of events with wall clock times, judged in outcome.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bench.lab import build_loadgen
from tests.hitless.network import PORT, SERVER_IP, Net
from tests.support import sid
from tests.support.waiting import poll

BIG_BYTES = 3_000_000
SMALL_BYTES = 1024
CURL_UPLOAD_BYTES = 500_000
#: Kinds of work of the quic-go client and how many goroutines, each with a connection of its own, do it.
WORK = "download=10,upload=10,short=12,fresh=6,split=6,idle=180,rebind=10,migrate=6,mux=60"
#: The same for what an upstream answers (upstream/main.go).
PROXIED = ",proxied-download=6,proxied-upload=6,events=8"
#: WebSocket over HTTP/3 (RFC 9220), which not every control offers.
WEBSOCKETS = ",websocket=8"
#: Where the upstream listens, in the server's namespace.
UPSTREAM = "127.0.0.1:8090"
CURLS = 2
#: New connections per second of our load generator; it reports after each slice.
LOADGEN_PER_S, LOADGEN_SLICE_S = 10, 5.0

#: One curl after the other: exit code, status, sizes and times of each in a line. Small, download, upload by turns.
_CURL_LOOP = """
n=0
while [ ! -e "$1/over" ]; do
  n=$((n + 1)); began=$(date +%s.%N)
  case $((n % 3)) in
    0) kind=download; set -- "$1" --limit-rate 1500K https://localhost:PORT/big ;;
    1) kind=upload; set -- "$1" --limit-rate 300K --upload-file "$1/upload" https://localhost:PORT/upload ;;
    2) kind=small; set -- "$1" https://localhost:PORT/small ;;
  esac
  directory=$1; shift
  said=$(curl --http3-only --insecure --silent --max-time 30 --resolve localhost:PORT:ADDRESS --output /dev/null \
    --write-out '%{http_code} %{size_download} %{size_upload} %{errormsg}' "$@"); code=$?
  echo "$kind $began $(date +%s.%N) $code $said"
  set -- "$directory"
  sleep 0.$((n % 5 + 1))
done
"""


def build(directory: Path, name: str) -> Path:
    """Compile a Go program of this folder, `client` or `upstream`, in the sid root; return the binary."""
    source = directory / f"{name}.go"
    shutil.copy(Path(__file__).parent / name / "main.go", source)
    cache = sid.ROOT.path.parent / "go-build"
    cache.mkdir(parents=True, exist_ok=True)
    binary = directory / name
    done = sid.run(
        *("env", "GO111MODULE=off", "GOPATH=/usr/share/gocode", f"GOCACHE={cache}", "CGO_ENABLED=0"),
        *("go", "build", "-o", binary, source),
        timeout_s=500,
        env={**os.environ, "VELOCITY_ROOT_BIND": f"{cache}:{cache}"},
    )
    if done.returncode:
        raise RuntimeError(f"cannot build {name}: {done.stderr}")
    return binary


@contextlib.contextmanager
def upstream(net: Net, directory: Path) -> Iterator[None]:
    """Run the upstream in the server's namespace, on UPSTREAM and on the socket upstream.sock in *directory*."""
    socket_path = directory / "upstream.sock"
    argv = (str(directory / "upstream"), "-address", UPSTREAM, "-socket", str(socket_path))
    process = subprocess.Popen(net.in_server(*argv, "-big", str(directory / "site" / "big")))
    try:
        poll(socket_path.exists, what="the upstream to start", timeout_s=10)
        yield
    finally:
        process.kill()
        process.wait()


@dataclass(slots=True)
class Facts:
    """The output of the clients."""

    #: Lines of the quic-go client, and its last one: kind -> counts.
    events: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: kind, began_s, at_s, exit code, status, bytes down, bytes up, error.
    curl: list[dict[str, Any]] = field(default_factory=list)
    #: Slices of our load generator: began_s, at_s and its output.
    loadgen: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Load:
    """Clients that run."""

    net: Net
    directory: Path
    seed: int
    seconds: float
    work: str = WORK
    curls: int = CURLS
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)
    _outputs: list[IO[str]] = field(default_factory=list)
    _slices: list[dict[str, Any]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; for *seconds* at most."""
        self._start(
            *(str(self.directory / "client"), "-addr", f"{SERVER_IP}:{PORT}", "-seed", str(self.seed)),
            *("-seconds", str(self.seconds), "-big-bytes", str(BIG_BYTES), "-work", self.work),
        )
        (self.directory / "upload").write_bytes(bytes(CURL_UPLOAD_BYTES))
        script = _CURL_LOOP.replace("PORT", str(PORT)).replace("ADDRESS", SERVER_IP)
        for _ in range(self.curls):
            self._start(*sid.command("sh", "-c", script, "curl-loop", self.directory))
        if not sid.missing("bench"):
            self._thread = threading.Thread(target=self._generate, args=(build_loadgen(),))
            self._thread.start()

    def _start(self, *argv: str) -> None:
        # Into a file: the output is not read during the run, and a full pipe would stop the load.
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._outputs.append(output)
        # quic-go warns that it cannot set the buffers of wrapped sockets.
        environment = {**os.environ, "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING": "true"}
        self._processes.append(subprocess.Popen(self.net.in_client(*argv), stdout=output, text=True, env=environment))

    def _generate(self, loadgen: str) -> None:
        options = ("--address", SERVER_IP, "--port", str(PORT), "--path", "/small", "--bytes", str(SMALL_BYTES))
        times = ("--rate", str(LOADGEN_PER_S), "--duration", str(LOADGEN_SLICE_S), "--warmup", "0")
        argv = self.net.in_client(*sid.command(loadgen, "handshakes", *options, *times, "--connections", "16"))
        while not self._over.is_set():
            began_s = time.time()
            done = subprocess.run([*argv, "--groups", "X25519MLKEM768"], capture_output=True, text=True, check=False)
            said = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-200:]}
            self._slices.append({"began_s": began_s, "at_s": time.time(), **said})

    def stop(self) -> Facts:
        """Stop all clients after their running requests, and return their output."""
        self._over.set()
        (self.directory / "over").touch()
        self._processes[0].send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(60)
        if self._thread is not None:
            self._thread.join(60)
        facts = Facts(loadgen=self._slices)
        texts = []
        for output in self._outputs:
            output.seek(0)
            texts.append(output.read())
        facts.events = [json.loads(line) for line in texts[0].splitlines()]
        facts.summary = facts.events.pop()["summary"]
        facts.curl = [_curl_fact(line) for text in texts[1:] for line in text.splitlines()]
        return facts


def _curl_fact(line: str) -> dict[str, Any]:
    kind, began_s, at_s, code, status, down, up, *error = line.split(" ", 7)
    return {
        "kind": kind,
        "began_s": float(began_s),
        "at_s": float(at_s),
        "exit_code": int(code),
        "status": int(status),
        "down": int(down),
        "up": int(up),
        "error": " ".join(error),
    }
