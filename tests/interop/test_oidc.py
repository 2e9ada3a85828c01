"""A person signs in once at a real provider, and has a session on every worker until it ends; nobody else has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support import sid
from tests.support.node import ENGINES, Node, running_node
from tests.support.peers import CurlAnswer, curl
from tests.support.provider import Provider, running_provider

pytestmark = [pytest.mark.interop, pytest.mark.slow]

CONFIG = """
server:
   listen: 127.0.0.1:0
   engine: ENGINE
   workers: 2
   tls: {certificate: DIRECTORY/certificate.pem, private_key: DIRECTORY/key.pem}
content:
   sites: [{hostname: "*", root: DIRECTORY/root, middlewares: [people]}]
   middlewares:
   -  name: people
      kind: oidc
      issuer: ISSUER
      client_id: edge
      client_secret: s3cret
      claims: {groups: [staff]}
"""
CALLBACK = "/.velocity/oidc/callback"


@pytest.fixture(autouse=True)
def _sid() -> None:
    sid.require("test")


class Browser:
    """Curl with a jar of cookies: it follows no redirect by itself."""

    def __init__(self, node: Node, name: str = "jar") -> None:
        self.node = node
        self.jar = node.directory / name

    def get(self, path: str, *options: str) -> CurlAnswer:
        url = path if path.startswith("https:") else self.node.url(path)
        return curl(url, "--cookie", str(self.jar), "--cookie-jar", str(self.jar), *options, ca=self.node.ca).answer

    def sign_in(self, provider: Provider, name: str = "alice", path: str = "/") -> CurlAnswer:
        return self.get(provider.sign_in(self.get(path).headers["location"], name))


Running = tuple[Node, Provider]


@contextmanager
def protected(engine: str) -> Iterator[Running]:
    with running_provider() as provider:
        text = CONFIG.replace("ISSUER", provider.issuer).replace("ENGINE", engine)
        with running_node(config=text, engine=engine, workers=2) as node:
            yield node, provider


@pytest.fixture(name="native", scope="module")
def _native() -> Iterator[Running]:
    """One node for the tests of this file; the last one changes it."""
    with protected("native") as running:
        yield running


@pytest.mark.parametrize("engine", ENGINES)
def test_a_login_from_end_to_end(engine: str, native: Running) -> None:
    """Login, session, logout; another browser, and one that the provider does not let in, get nothing."""
    with nullcontext(native) if engine == "native" else protected(engine) as (node, provider):
        browser = Browser(node, engine)
        begun = browser.get("/index.html?a=b")
        assert begun.status == 303
        asked = parse_qs(urlsplit(begun.headers["location"]).query)
        assert begun.headers["location"].startswith(provider.issuer)
        assert asked["code_challenge_method"] == ["S256"]
        assert asked["redirect_uri"] == [node.url(CALLBACK)]
        came_back = browser.get(provider.sign_in(begun.headers["location"], "alice"))
        assert (came_back.status, came_back.headers["location"]) == (303, node.url("/index.html?a=b"))
        shown = browser.get("/index.html")
        assert (shown.status, shown.headers["cache-control"]) == (200, "private")
        assert Browser(node, f"other-{engine}").get("/index.html").status == 303
        nobody = Browser(node, f"nobody-{engine}")
        assert nobody.sign_in(provider, "mallory").status == 303
        assert nobody.get("/").status == 403
        assert browser.get("/.velocity/oidc/logout").headers["location"] == node.url("/")
        assert browser.get("/index.html").status == 303


def test_answers_that_do_not_belong_to_this_browsers_login_are_refused(native: Running) -> None:
    """Login CSRF, replay and tampering: another browser's answer, another state, a changed cookie or code."""
    with nullcontext(native) as (node, provider):
        victim, attacker = Browser(node, "victim"), Browser(node, "attacker")
        answer = provider.sign_in(attacker.get("/").headers["location"], "alice")
        assert victim.get("/").status == 303
        assert victim.get(answer).status == 400, "the attempt is in the attacker's browser"
        assert victim.get(answer.replace("state=", "state=x")).status == 400
        assert victim.get(CALLBACK).status == 400
        assert victim.get("/").status == 303
        assert attacker.get(re.sub("code=[^&]*", "code=forged", answer)).status == 403
        text = attacker.jar.read_text()
        attacker.jar.write_text(text.replace("\t1.", "\t1.AAAA"))
        assert attacker.get(answer).status == 400
        attacker.jar.write_text(text)
        # Once: the provider gives no second token for a code.
        assert attacker.get(answer).status == 303
        assert attacker.get(answer).status == 400


def test_a_session_survives_new_workers_and_new_keys_and_a_provider_that_is_down(native: Running) -> None:
    with nullcontext(native) as (node, provider):
        browser = Browser(node)
        browser.sign_in(provider)
        # Each transfer is a new connection, from another port: both workers get some.
        served = [browser.get("/").status for _ in range(6)]
        assert served == [200] * 6
        assert node.command("tickets", "rotate").returncode == 0
        before = browser.jar.read_text()
        renewed = browser.get("/")
        assert (renewed.status, renewed.headers["cache-control"]) == (200, "private, no-store")
        assert browser.jar.read_text() != before, "sealed again under the present key"
        assert "set-cookie" not in browser.get("/").headers
        assert node.command("admin", "restart", "--timeout", "60s", timeout_s=90).returncode == 0
        provider.stop()
        assert browser.get("/").status == 200
        down = Browser(node, "late").get("/")
        assert (down.status, down.headers.get("retry-after")) == (503, "5")
