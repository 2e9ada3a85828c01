"""velocity.service of deploy/systemd in a private systemd (private_systemd.py), with a real node on a free port.

The unit is the shipped one; a drop-in has the changes for tests. It starts an installation (installation.py)
at /opt/velocity-edge: the tree may lie below /tmp or /home, which the unit hides.
"""

from __future__ import annotations

import compileall
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.certificates import Certificate, make_certificate
from tests.support.installation import Programs, needed
from tests.support.private_systemd import PrivateSystemd, private_systemd
from tests.support.waiting import poll
from velocity_edge.status.document import NodeStatus

DEPLOY = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = "velocity.service"
#: Where the installation is, as the unit sees it.
OPT = Path("/opt")
NAME = "velocity-edge"
_BUSY_S = 60.0


@dataclass
class Service:
    systemd: PrivateSystemd
    directory: Path
    certificate: Certificate
    port: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.directory / "serve.yaml"

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def runtime(self) -> Path:
        return self.systemd.root / "run" / "velocity"

    @property
    def pins(self) -> Path:
        return self.systemd.root / "sys" / "fs" / "bpf" / "velocity-edge" / "main"

    def url(self, path: str = "/") -> str:
        return f"https://localhost:{self.port}{path}"

    def write_config(self, **server: Any) -> None:
        root = self.directory / "root"
        root.mkdir(exist_ok=True)
        (root / "index.html").write_text("served by velocity-edge")
        site = {"hostname": "*", "root": str(root)}
        tls = {"certificate": str(self.certificate.chain), "private_key": str(self.certificate.key)}
        basic = {"listen": f"127.0.0.1:{self.port}", "workers": 2, "tls": tls, "drain": {"timeout": "2s"}}
        self.config.write_text(
            json.dumps({"server": basic | server, "dispatch": {"mode": "socket"}, "content": {"sites": [site]}})
        )

    def admin(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("node", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(30)
            connection.sock.connect(str(self.runtime / "admin.sock"))
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def status(self) -> NodeStatus | None:
        try:
            code, body = self.admin("GET", "/v1/status")
        except (OSError, http.client.HTTPException):
            return None
        assert code == 200, body
        found: NodeStatus = json.loads(body)
        return found

    def wait_for(self, what: str, state: str = "serving", but_not: int = 0) -> NodeStatus:
        """Return the status of a node in this state, all workers ready, whose supervisor is not *but_not*."""

        def look() -> NodeStatus | None:
            status = self.status()
            if status is None or status["state"] != state or self.main_pid() in (0, but_not):
                return None
            ready = [w for w in status["workers"] if w["state"] in ("ready", "draining")]
            return status if len(ready) == len(status["workers"]) == 2 else None

        return poll(look, what, _BUSY_S, every_s=0.1) or {}  # type: ignore[return-value]

    def main_pid(self) -> int:
        """Return the supervisor's outer pid; 0: there is none."""
        pid = int(self.systemd.show(UNIT, "MainPID")["MainPID"])
        try:
            return self.systemd.our_pid(pid) if pid else 0
        except ProcessLookupError:
            return 0

    def workers(self) -> set[int]:
        """Return the other processes of the service."""
        return {
            pid for pid, command in self.systemd.processes(UNIT).items() if command.startswith("velocity-edge: worker ")
        }

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        os.kill(pid, number)

    def show(self, *names: str) -> dict[str, str]:
        return self.systemd.show(UNIT, *names)


def unit_text(config: Path, program: Path = OPT / NAME / "bin" / "velocity-edge") -> str:
    text = (DEPLOY / UNIT).read_text()
    return text.replace("/usr/local/bin/velocity-edge", str(program)).replace(
        "/etc/velocity/serve.simple.yaml", str(config)
    )


def _installed(directory: Path) -> dict[Path, Path]:
    """Make the installation in *directory*; return the mounts."""
    needs = {OPT / "needed" / str(index): path for index, path in enumerate(needed())}
    for place in needs:
        (directory / place.relative_to(OPT)).mkdir(parents=True)
    # As pip does it: the service cannot write there, and would compile at each start.
    compileall.compile_dir(Programs(directory, OPT, needs).install(NAME), quiet=2)
    return {OPT: directory, **needs}


def _visible(directory: Path) -> list[str]:
    """Folders that the unit hides and these tests need: their own directory, and an interpreter below /home."""
    python = Path(sys.base_prefix)
    lines = [f"BindPaths={directory}"]
    if any(python.is_relative_to(home) for home in ("/root", "/home")):
        lines += ["ProtectHome=tmpfs"]
    if any(python.is_relative_to(place) for place in ("/root", "/home", "/tmp", "/var/tmp")):
        lines += [f'BindReadOnlyPaths="{python}"']
    return lines


@contextlib.contextmanager
def service(*, drop_in: str = "") -> Iterator[Service]:
    """Install the unit; it is not started."""
    directory = Path(tempfile.mkdtemp(prefix="ve-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        certificate = make_certificate(directory, "localhost", "127.0.0.1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with private_systemd(directory, _installed(directory / "opt")) as systemd:
            made = Service(systemd, directory, certificate, port)
            made.write_config()
            # Changes for the test's environment. The unit must not be ordered after missing units.
            lines = ["[Unit]", "DefaultDependencies=no", "Wants=", "After=", "[Service]", *_visible(directory)]
            lines += [f"StandardOutput=append:{directory}/log", f"StandardError=append:{directory}/log"]
            systemd.install(f"{UNIT}.d/10-test.conf", "\n".join([*lines, drop_in, ""]))
            systemd.install(UNIT, unit_text(made.config))
            try:
                yield made
            except BaseException:
                sys.stderr.write(f"--- log of the service ---\n{made.log[-6000:]}\n")
                raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)
