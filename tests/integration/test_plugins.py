"""A package that is installed beside a node brings a handler and a middleware; wrong options change nothing."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installation import REPOSITORY, Programs
from tests.support.node import Node, running_node

pytestmark = pytest.mark.slow
EXAMPLE = REPOSITORY / "docs/examples/velocity-edge-greeting"
CONFIG = """\
server:
  {listen: "127.0.0.1:0", workers: 1, tls: {certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}}
content:
  middlewares:
    - {name: stamped, kind: plugin, plugin: stamp, options: {field: X-Stamp}}
  routes:
    - match: {path: "/greet/{name}"}
      action: {type: plugin, name: greeting, options: {words: Good day}}
      middlewares: [stamped]
    - match: {path: /echo, methods: [POST]}
      action: {type: plugin, name: echo}
"""


@pytest.fixture(name="programs", scope="module")
def _programs() -> Iterator[Programs]:
    """An environment of its own, into which pip has installed the example, without network."""
    with tempfile.TemporaryDirectory(prefix="ve-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        programs = Programs(Path(directory))
        home = programs.install("a")
        programs.use("a")
        pip = [home / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        options = ["--no-deps", "--no-index", "--no-build-isolation", "--root-user-action", "ignore"]
        subprocess.run([*pip, *options, EXAMPLE], check=True, timeout=120)
        yield programs


def fetched(node: Node, path: str, *options: str) -> tuple[int, bytes, str | None]:
    """Return status, body and `x-stamp` of an answer."""
    body = node.directory / "body"
    command = ["client", "get", node.url(path), "--cafile", str(node.ca), "--json", "--output", str(body), *options]
    done = node.command(*command)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    return report["status"], body.read_bytes(), dict(report["headers"]).get("x-stamp")


def test_an_installed_package_answers_requests(programs: Programs) -> None:
    with running_node(config=CONFIG, program=(programs.command,)) as node:
        greeted = fetched(node, "/greet/you%21")
        assert greeted == (200, b"Good day, you!!\n", "velocity-edge-greeting")
        (node.directory / "data").write_bytes(b"\x00\x01" * 1000)
        echoed = fetched(node, "/echo", "-X", "POST", "--data", str(node.directory / "data"))
        assert echoed == (200, b"\x00\x01" * 1000, None)
        file = node.directory / "serve.yaml"
        file.write_text(file.read_text().replace("words: Good day", "words: 5"))
        code, answer = node.admin("POST", "/v1/reload", "{}")
        assert b"cannot use the plugin 'greeting': words must be text, not 5" in answer, (code, answer)
        assert fetched(node, "/greet/you")[1] == b"Good day, you!\n"


def test_a_name_that_no_package_declares_is_refused(programs: Programs, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("content: {routes: [{match: {path: /}, action: {type: plugin, name: greting}}]}\n")
    done = subprocess.run(
        [programs.command, "config", "lint", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78
    said = (
        ": content.routes[0].action.name: cannot find 'greting': packages that are installed here have echo, "
        "greeting in velocity_edge.handlers"
    )
    assert any(line.startswith(f"{file}:1:") and line.endswith(said) for line in done.stderr.splitlines())
