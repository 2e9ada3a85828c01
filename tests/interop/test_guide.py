"""The deployment guide's two files, with paths and ports of this machine, serve what the guide says: curl shows it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import sid
from tests.support.installation import REPOSITORY
from tests.support.node import Node, running_node
from tests.support.peers import CurlAnswer, curl
from tests.support.waiting import poll

pytestmark = [pytest.mark.interop, pytest.mark.slow]
GUIDE = REPOSITORY / "tests/unit/velocity_edge/config"


#: Further actions, in the indentation of the guide.
MORE = """\
   - match:
         path: /hello/{name}
      action:
         type: template
         name: hello.html
   - match:
         path: /broken
      action:
         type: template
         name: broken.html
   - match:
         path: /users/{id}
      action:
         type: json
         body: {id: "{id}"}
   - match:
         path: /old
      action:
         type: redirect
         to: /new
         keep_path: true
"""


class Upstream(BaseHTTPRequestHandler):
    """An HTTP server of the standard library."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"{self.path} for {self.headers['host']} by {self.headers['x-forwarded-proto']}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(name="upstream", scope="module")
def _upstream() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(name="edge", scope="module")
def _edge(upstream: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The edge configuration as printed, with this machine's port, and more actions."""
    edge = tmp_path_factory.mktemp("etc") / "edge.yaml"
    (edge.parent / "templates").mkdir()
    (edge.parent / "templates" / "hello.html").write_text("hello {{ params.name }}")
    (edge.parent / "templates" / "broken.html").write_text("{{ unknown }}")
    printed = (GUIDE / "edge.yaml").read_text().replace("127.0.0.1:4000", f"127.0.0.1:{upstream}")
    edge.write_text(printed + MORE)
    return edge


@pytest.fixture(name="node", scope="module")
def _node(upstream: int, edge: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    sid.require("test")
    site = tmp_path_factory.mktemp("example")
    site.chmod(0o755)
    (site / "index.html").write_text("<h1>example.com</h1>")
    with running_node("--edge-config", str(edge), config=adapted(site, upstream)) as running:
        yield running


def adapted(site: Path, upstream: int) -> str:
    """Return serve.simple.yaml as printed, with this machine's paths and ports."""
    text = (GUIDE / "serve.simple.yaml").read_text()
    for printed, here in (
        ('"0.0.0.0:4433"', '"127.0.0.1:0"'),
        ("/etc/velocity/certs/fullchain.pem", "DIRECTORY/certificate.pem"),
        ("/etc/velocity/certs/privkey.pem", "DIRECTORY/key.pem"),
        ('"127.0.0.1:9300"', '"127.0.0.1:0"'),
        ("/srv/www/example", str(site)),
        ("http://127.0.0.1:8080", f"http://127.0.0.1:{upstream}"),
        ("/var/lib/velocity/tickets.json", "DIRECTORY/tickets.json"),
    ):
        assert printed in text
        text = text.replace(printed, here)
    return text


def answer(node: Node, host: str, path: str) -> CurlAnswer:
    to = f"{host}:{node.port}:127.0.0.1"
    # The certificate of the test has other names.
    run = curl(f"https://{host}:{node.port}{path}", "--resolve", to, "--insecure", ca=node.ca)
    return run.answer


def test_example_com_is_served_from_disk(node: Node) -> None:
    page = answer(node, "example.com", "/")
    assert (page.status, page.http_version, page.body) == (200, "3", b"<h1>example.com</h1>")
    assert page.headers["cache-control"] == "public, max-age=60"


def test_api_example_com_is_served_from_its_upstream(node: Node) -> None:
    forwarded = answer(node, "api.example.com", "/v1/users?id=7")
    assert forwarded.status == 200
    assert re.fullmatch(rb"/v1/users\?id=7 for api\.example\.com(:\d+)? by https\n", forwarded.body)


@pytest.mark.parametrize("host", ["example.com", "api.example.com"])
def test_routes_of_the_edge_configuration_are_on_both_hosts(node: Node, host: str) -> None:
    health = answer(node, host, "/healthz")
    assert (health.status, health.body) == (200, b"ok")
    routed = answer(node, host, "/api/x")
    assert (routed.status, routed.body.startswith(b"/api/x for 127.0.0.1:")) == (200, True)


def test_a_middleware_that_protects_nothing_is_degraded(node: Node) -> None:
    assert any("'auth' is used by no site, proxy or route" in sentence for sentence in node.status()["degraded"])


def test_further_actions(node: Node) -> None:
    assert answer(node, "example.com", "/hello/%3Cb%3E").body == b"hello &lt;b&gt;"
    assert answer(node, "example.com", "/users/a%22b").body == b'{"id":"a\\"b"}'
    moved = answer(node, "example.com", "/old/a?b")
    assert (moved.status, moved.headers["location"]) == (308, "/new/a?b")
    assert answer(node, "example.com", "/broken").status == 500
    assert "cannot make the page broken.html for /broken: UndefinedError: 'unknown' is undefined" in node.log
    assert answer(node, "other.example", "/healthz").status == 421


def test_a_change_of_the_edge_configuration_or_of_a_template_is_used(node: Node, edge: Path) -> None:
    (edge.parent / "templates" / "hello.html").write_text("good day {{ params.name }}")
    poll(lambda: answer(node, "example.com", "/hello/you").body == b"good day you", "the new template")
    edge.write_text(edge.read_text().replace('body: "ok"', 'body: "fine"'))
    poll(lambda: answer(node, "example.com", "/healthz").body == b"fine", "the new body")
    edge.write_text(edge.read_text().replace("type: static", "type: statik"))
    poll(lambda: any("cannot use 'statik'" in one for one in node.status()["degraded"]), "the refusal")
    assert answer(node, "example.com", "/healthz").body == b"fine"
