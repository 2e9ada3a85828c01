"""The commands of the README and the deployment guide work as printed: `serve`, and then curl."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support import sid
from tests.support.node import COMMAND, ENGINES, running_node
from tests.support.peers import curl
from tests.support.waiting import poll

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TREE = Path(__file__).parents[2]


@pytest.mark.parametrize("engine", ENGINES)
def test_ipv6_and_ipv4_on_one_listener(engine: str) -> None:
    """A listener on [::] serves both families, and answers from the destination address of the request."""
    sid.require("test")
    with running_node(engine=engine, workers=2, listen="[::]:0") as node:
        for address in ("[::1]", "127.0.0.1", "127.0.0.2"):
            there = f"localhost:{node.port}:{address}:{node.port}"
            run = curl(node.url(), "--connect-to", there, ca=node.ca)
            assert (run.answer.status, run.group) == (200, "X25519MLKEM768"), address


def test_serve_command_of_the_guide_works(short_dir: Path) -> None:
    """`velocity-edge serve --root public --self-signed`: the welcome page, and a certificate that verifies."""
    sid.require("test")
    short_dir.chmod(0o755)
    environment = {
        **os.environ,
        "VELOCITY_RUNTIME_DIR": str(short_dir / "run"),
        "VELOCITY_STATE_DIR": str(short_dir / "state"),
        "VELOCITY_CACHE_DIR": f"/tmp/ve-cache-{os.getuid()}",
    }
    with tempfile.TemporaryFile("w+") as log:
        node = subprocess.Popen(
            [COMMAND, "serve", "--root", "public", "--self-signed", "--listen", "0.0.0.0:0"],
            cwd=TREE,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:

            def status() -> dict[str, object]:
                assert node.poll() is None, f"the node ended with {node.returncode}"
                asked = subprocess.run([COMMAND, "status", "--json"], env=environment, capture_output=True, check=False)
                said: dict[str, object] = json.loads(asked.stdout) if asked.returncode in (0, 6) else {}
                return said if said.get("state") == "serving" else {}

            said = poll(status, "a node that serves", every_s=0.2)
            port = str(said["listeners"][0]).rpartition(":")[2]  # type: ignore[index]
            (certificate,) = (
                path for path in (short_dir / "state").rglob("*.pem") if b"BEGIN CERT" in path.read_bytes()
            )
            page = curl(f"https://localhost:{port}/", ca=certificate)
            assert (page.answer.status, page.group, page.answer.verify_result) == (200, "X25519MLKEM768", 0)
            assert b"<img" in page.answer.body or b"<svg" in page.answer.body
        finally:
            node.send_signal(signal.SIGTERM)
            code = node.wait(20)
        log.seek(0)
        text = log.read()
        assert code == 0, text
        assert "Traceback" not in text, text
