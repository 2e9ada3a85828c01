"""The hitless experiment: clients of others keep a server busy while it is reloaded, restarted and killed.

One run has a subject (velocity-edge, or a peer as control), a load (client/main.go on quic-go: downloads, short
requests, fresh connections, ClientHellos whose second datagram is late, idle connections, NAT rebinds, active
migration, many connections on one socket), and a seeded sequence of disturbances. It prints what was lost. Server and
client live in two network namespaces joined by a veth pair. Every loop is bounded by `--seconds`.

    python tests/hitless/experiment.py velocity-edge --seconds 60 --seed 7
    python tests/hitless/experiment.py nginx --seconds 60 --seed 7

What surprises: a request that was cut by a stateless reset and answered on the next connection is not a failed request,
but its connection is counted in `connections_reset`; it may only be that of a killed worker.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import sid  # noqa: E402
from tests.support.waiting import poll  # noqa: E402

SERVER_IP, CLIENT_IP = "10.88.0.1", "10.88.0.2"
PORT = 4433
BIG_BYTES = 3_000_000
#: Kinds of work of the client, and how many goroutines do each.
WORK = "download=6,short=8,fresh=6,split=6,idle=12,rebind=4,migrate=4,mux=8"


# --- where it happens ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Net:
    """Two namespaces joined by a veth pair."""

    server: str
    client: str


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def network() -> Iterator[Net]:
    """Make the namespaces, and delete them (and whatever still runs in them) afterwards."""
    net = Net(f"vehl-s{os.getpid()}", f"vehl-c{os.getpid()}")
    _ip("netns", "add", net.server)
    try:
        _ip("netns", "add", net.client)
        _ip("link", "add", "s0", "netns", net.server, "type", "veth", "peer", "name", "c0", "netns", net.client)
        for name, device, address in ((net.server, "s0", SERVER_IP), (net.client, "c0", CLIENT_IP)):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield net
    finally:
        for name in (net.server, net.client):
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
            for pid in pids.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def build_client(directory: Path) -> Path:
    """Compile the quic-go client in the sid root (Debian's own packages of it) and return the binary."""
    shutil.copy(HERE / "client" / "main.go", directory / "main.go")
    cache = (
        Path(subprocess.run([sid.TOOL, "path"], capture_output=True, text=True, check=True).stdout.strip()).parent
        / "go-build"
    )
    cache.mkdir(parents=True, exist_ok=True)
    binary = directory / "client"
    done = sid.run(
        *("env", "GO111MODULE=off", "GOPATH=/usr/share/gocode", f"GOCACHE={cache}", "CGO_ENABLED=0"),
        *("go", "build", "-o", binary, directory / "main.go"),
        timeout_s=300,
        env={**os.environ, "VELOCITY_SID_BIND": str(cache)},
    )
    if done.returncode:
        raise RuntimeError(f"cannot build the client: {done.stderr}")
    return binary


# --- who is tried -----------------------------------------------------------------------------------------------------


class Subject(Protocol):
    """A server under test. `disturbances` are what can be done to it while it serves."""

    name: str
    disturbances: dict[str, Callable[[], None]]

    def start(self) -> None:
        """Serve the site on SERVER_IP:PORT; return when it answers."""

    def stop(self) -> None:
        """End it."""

    def report(self) -> dict[str, Any]:
        """What it counted itself."""


@dataclass(slots=True)
class Nginx:
    """The control: nginx of the sid root with the settings its documentation gives for QUIC on several workers."""

    net: Net
    directory: Path
    name: str = "nginx"
    disturbances: dict[str, Callable[[], None]] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start with quic_bpf and reuseport, two workers."""
        for kind in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
            (self.directory / kind).mkdir()
        temporary = "".join(
            f"{kind}_temp_path {self.directory}/{short};"
            for kind, short in (
                ("client_body", "body"),
                ("proxy", "proxy"),
                ("fastcgi", "fastcgi"),
                ("uwsgi", "uwsgi"),
                ("scgi", "scgi"),
            )
        )
        conf = self.directory / "nginx.conf"
        conf.write_text(
            f"""daemon off; worker_processes 2; pid {self.directory}/nginx.pid; user root;
error_log {self.directory}/error.log warn; quic_bpf on; worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  {temporary} access_log off; keepalive_timeout 60s; keepalive_requests 1000000;
  server {{
    listen {SERVER_IP}:{PORT} quic reuseport; http3 on; server_name localhost;
    ssl_certificate {self.directory}/cert.pem; ssl_certificate_key {self.directory}/key.pem; ssl_protocols TLSv1.3;
    root {self.directory}/site;
  }}
}}
"""
        )
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.net.server, *sid.command("nginx", "-c", conf)], text=True
        )
        poll(lambda: (self.directory / "nginx.pid").exists(), what="nginx to start", timeout_s=10)
        self.disturbances = {"reload": self.reload}

    def reload(self) -> None:
        """SIGHUP: new workers take over, old ones finish their connections."""
        os.kill(int((self.directory / "nginx.pid").read_text()), signal.SIGHUP)

    def stop(self) -> None:
        """SIGTERM."""
        if self.process:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(int((self.directory / "nginx.pid").read_text()), signal.SIGTERM)
            self.process.wait(20)

    def report(self) -> dict[str, Any]:
        """It counts nothing."""
        return {}


@dataclass(slots=True)
class VelocityEdge:
    """Our node: two workers, the shield on the veth, everything by the commands that an operator would use."""

    net: Net
    directory: Path
    name: str = "velocity-edge"
    disturbances: dict[str, Callable[[], None]] = field(default_factory=dict)
    supervisor: subprocess.Popen[str] | None = None
    notes: list[str] = field(default_factory=list)
    _dice: random.Random = field(default_factory=lambda: random.Random(1))

    def start(self) -> None:
        """Start the node and wait until it serves."""
        config = self.directory / "serve.yaml"
        config.write_text(
            f"""server:
  listen: "{SERVER_IP}:{PORT}"
  workers: 2
  tls:
    certificate: {self.directory}/cert.pem
    private_key: {self.directory}/key.pem
dispatch:
  interfaces: [s0]
  initials_per_s: 100000
  initials_burst: 100000
content:
  sites:
    - hostname: localhost
      root: {self.directory}/site
"""
        )
        self._spawn()
        self.disturbances = {
            "reload": lambda: self._admin("reload"),
            "restart": lambda: self._admin("restart", "--timeout", "60s"),
            "upgrade": lambda: self._admin("upgrade", "--timeout", "60s"),
            "quiesce": self._quiesce_and_resume,
            "worker-kill": self._kill_worker,
            "supervisor-kill": self._kill_supervisor,
        }

    def _spawn(self) -> None:
        log = (self.directory / "node.log").open("a")
        self.supervisor = subprocess.Popen(
            [
                # Not `ip netns exec`: that gives every process a /sys of its own, and so a bpffs without our pins.
                *("nsenter", f"--net=/run/netns/{self.net.server}", str(ROOT / ".venv" / "bin" / "velocity-edge")),
                *("serve", "--config", str(self.directory / "serve.yaml")),
            ],
            env=self._environment(),
            stdout=log,
            stderr=log,
            text=True,
        )
        poll(lambda: self._status().get("state") == "serving", what="the node to serve", timeout_s=30)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "VELOCITY_RUNTIME_DIR": str(self.directory / "run"),
            "VELOCITY_STATE_DIR": str(self.directory / "state"),
        }

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ROOT / ".venv" / "bin" / "velocity-edge"), *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def _status(self) -> dict[str, Any]:
        done = self._command("status", "--json")
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def _admin(self, *arguments: str) -> None:
        done = self._command("admin", *arguments)
        if done.returncode:
            self.notes.append(f"admin {' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip()[-200:]}")

    def _quiesce_and_resume(self) -> None:
        self._admin("quiesce", "--mode", "discourage")
        self._admin("resume")

    def _kill_worker(self) -> None:
        workers = self._status().get("workers") or []
        ready = [worker for worker in workers if worker["state"] == "ready"]
        if ready:
            os.kill(self._dice.choice(ready)["pid"], signal.SIGKILL)

    def _kill_supervisor(self) -> None:
        assert self.supervisor
        os.kill(self.supervisor.pid, signal.SIGKILL)
        self.supervisor.wait(10)
        self._spawn()

    def stop(self) -> None:
        """Drain for a moment, then go."""
        if self.supervisor:
            self.supervisor.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.supervisor.wait(15)

    def report(self) -> dict[str, Any]:
        """The node's own counters, and what the commands said."""
        return {"status": self._status(), "notes": self.notes}


# --- the run ------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What a run ended with."""

    subject: str
    seed: int
    done: dict[str, int]
    by_kind: dict[str, dict[str, Any]]
    p99_calm_ms: float
    p99_disturbed_ms: float
    own_report: dict[str, Any]

    def total(self, what: str) -> int:
        """Sum of a column over all kinds of work."""
        return sum(int(row[what]) for row in self.by_kind.values())


def run(subject: Subject, client: Path, net: Net, *, seconds: float, seed: int, plan: dict[str, int]) -> Outcome:
    """Let the load run and disturb the subject: each kind of *plan* that often, in random order, evenly spread."""
    dice = random.Random(seed)
    deeds = [kind for kind, times in plan.items() for _ in range(times) if kind in subject.disturbances]
    dice.shuffle(deeds)
    # Into a file: nobody reads while disturbances are made, and a full pipe would stop the load.
    samples = tempfile.TemporaryFile("w+")  # noqa: SIM115
    load = subprocess.Popen(
        [
            *("ip", "netns", "exec", net.client, str(client), "-addr", f"{SERVER_IP}:{PORT}", "-seed", str(seed)),
            *("-seconds", str(seconds), "-big-bytes", str(BIG_BYTES), "-work", WORK),
        ],
        stdout=samples,
        text=True,
    )
    began = time.monotonic()
    marks: list[float] = []
    # The first and the last seconds are calm: connections open, and late damage shows.
    slot_s = (seconds - 6) / max(1, len(deeds))
    for number, kind in enumerate(deeds):
        at = began + 3 + number * slot_s + dice.random() * slot_s * 0.3
        while (left := at - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
        marks.append(time.monotonic() - began)
        subject.disturbances[kind]()
    load.wait(timeout=seconds + 60)
    samples.seek(0)
    lines = [json.loads(line) for line in samples]
    by_kind = lines.pop()["summary"]
    calm, disturbed = _split_latencies(lines, marks)
    done = {kind: deeds.count(kind) for kind in plan if kind in deeds}
    return Outcome(subject.name, seed, done, by_kind, _p99(calm), _p99(disturbed), subject.report())


def _split_latencies(samples: list[dict[str, Any]], marks: list[float]) -> tuple[list[float], list[float]]:
    calm: list[float] = []
    disturbed: list[float] = []
    for sample in samples:
        if sample["kind"] == "split":
            continue  # late on purpose
        near = any(-0.1 <= sample["at_s"] - mark <= 1.0 for mark in marks)
        (disturbed if near else calm).append(sample["ms"])
    return calm, disturbed


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0


COLUMNS = (
    ("connections_lost", "connections lost"),
    ("handshakes_failed", "handshakes lost"),
    ("requests_failed", "requests failed"),
    ("connections_reset", "connections reset"),
    ("connections_moved", "connections moved"),
    ("retried", "requests sent again"),
    ("migrations", "migrations"),
    ("handshakes", "handshakes"),
    ("requests", "requests"),
)


def table(outcome: Outcome) -> str:
    """Markdown: a row per kind of work, and the sum."""
    kinds = sorted(outcome.by_kind)
    lines = [
        "| work | " + " | ".join(title for _, title in COLUMNS) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
        *(f"| {kind} | " + " | ".join(str(outcome.by_kind[kind][key]) for key, _ in COLUMNS) + " |" for kind in kinds),
        "| **all** | " + " | ".join(f"**{outcome.total(key)}**" for key, _ in COLUMNS) + " |",
    ]
    recoveries = sorted(ms for row in outcome.by_kind.values() for ms in row.get("recover_ms") or ())
    deeds = ", ".join(f"{times} x {kind}" for kind, times in outcome.done.items())
    lines += [
        "",
        f"{outcome.subject}, seed {outcome.seed}: {deeds}. p99 {outcome.p99_calm_ms:.1f} ms calm, "
        f"{outcome.p99_disturbed_ms:.1f} ms within a second of a disturbance."
        + (f" Back after a reset: median {recoveries[len(recoveries) // 2]:.1f} ms." if recoveries else ""),
    ]
    errors: dict[str, int] = {}
    for row in outcome.by_kind.values():
        for text, times in (row.get("errors") or {}).items():
            errors[text] = errors.get(text, 0) + times
    lines += [f"- {times} x {text}" for text, times in sorted(errors.items(), key=lambda item: -item[1])[:12]]
    return "\n".join(lines)


def prepare(directory: Path) -> None:
    """The site that is served, and a certificate."""
    site = directory / "site"
    site.mkdir(parents=True)
    (site / "small").write_bytes(b"x" * 1024)
    (site / "big").write_bytes(os.urandom(BIG_BYTES))
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-keyout", directory / "key.pem", "-out", directory / "cert.pem", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )


def main() -> int:
    """Run one experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=["velocity-edge", "nginx"])
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--plan", default="reload=6,restart=4,supervisor-kill=2", help="kind=times,...")
    parser.add_argument("--keep", type=Path, help="copy logs and configuration to this folder")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    plan = {kind: int(times) for kind, _, times in (item.partition("=") for item in arguments.plan.split(","))}
    with tempfile.TemporaryDirectory(prefix="ve-hitless-", dir="/tmp") as name, network() as net:
        directory = Path(name)
        directory.chmod(0o755)
        prepare(directory)
        client = build_client(directory)
        subject: Subject = (Nginx if arguments.subject == "nginx" else VelocityEdge)(net, directory)
        try:
            subject.start()
            outcome = run(subject, client, net, seconds=arguments.seconds, seed=arguments.seed, plan=plan)
        finally:
            subject.stop()
            if arguments.keep:
                for log in directory.glob("*.log"):
                    shutil.copy(log, arguments.keep)
    print(table(outcome))
    for note in outcome.own_report.get("notes", ()):
        print("-", note)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
