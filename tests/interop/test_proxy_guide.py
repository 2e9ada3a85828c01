"""The configuration of the deployment guide, with paths of this machine: curl sees a site and a proxied API."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from tests.support import sid
from tests.support.certificates import make_certificate
from tests.support.node import ENGINES, running_node
from tests.support.peers import curl
from tests.support.upstream import Upstream

pytestmark = [pytest.mark.interop, pytest.mark.slow]

GUIDE = Path(__file__).parents[1] / "unit/velocity_edge/config/serve.simple.yaml"


@pytest.mark.parametrize("engine", ENGINES)
def test_curl_sees_both_names_of_the_guides_file(engine: str) -> None:
    sid.require("test")
    with Upstream() as upstream, tempfile.TemporaryDirectory(prefix="ve-guide-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)  # curl is in another root
        certificate = make_certificate(Path(folder), "example.com", "api.example.com")
        text = GUIDE.read_text()
        changes = {
            "0.0.0.0:4433": "127.0.0.1:0",
            "/etc/velocity/certs/fullchain.pem": str(certificate.chain),
            "/etc/velocity/certs/privkey.pem": str(certificate.key),
            "127.0.0.1:9300": "127.0.0.1:0",
            "/srv/www/example": "DIRECTORY/root",
            "http://127.0.0.1:8080": f"http://localhost:{upstream.port}",
            "/var/lib/velocity/tickets.json": "DIRECTORY/tickets.json",
        }
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        text = text.replace("server:\n", f"server:\n   workers: 1\n   engine: {engine}\n", 1)
        with running_node(engine=engine, config=text) as node:
            to = ("--connect-to", f"::127.0.0.1:{node.port}")
            page = curl(f"https://example.com:{node.port}/", *to, ca=certificate.chain)
            assert (page.answer.status, page.answer.http_version) == (200, "3")
            assert b"served by velocity-edge" in page.answer.body
            assert page.answer.headers["cache-control"] == "public, max-age=60"
            api = curl(f"https://api.example.com:{node.port}/v1/x?y=1", *to, ca=certificate.chain)
            assert (api.answer.status, api.answer.http_version) == (200, "3")
            seen = json.loads(api.answer.body)
            assert (seen["method"], seen["target"]) == ("GET", "/v1/x?y=1")
            assert seen["fields"]["host"] == f"api.example.com:{node.port}"
            assert seen["fields"]["x-forwarded-for"] == "127.0.0.1"
            assert node.status()["degraded"] == []
