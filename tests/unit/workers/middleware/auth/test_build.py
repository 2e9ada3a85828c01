"""A revision with authentication: files are read through descriptors, paths of logins are routed, state outlives it."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from tests.support.epoch_tables import table
from tests.support.jwts import jwk, key_set, public_pem
from velocity_edge.config.model import Config
from velocity_edge.errors import ConfigError
from velocity_edge.pki.self_signed import self_signed
from velocity_edge.wire.messages import KeyedChain
from workers.handlers.build import HandlerContext
from workers.handlers.static.beneath import Descriptor
from workers.http import Request, Response
from workers.middleware.auth.basic import Verifier
from workers.serve.revisions import Prepared, prepare

OIDC = {"name": "people", "kind": "oidc", "issuer": "http://127.0.0.1:9", "client_id": "edge"}


@pytest.fixture(name="chains", scope="module")
def _chains(tmp_path_factory: pytest.TempPathFactory) -> list[KeyedChain]:
    return [self_signed(tmp_path_factory.mktemp("state")).keyed]


class Worker:
    """Prepares revisions, as a worker does."""

    def __init__(self, chains: list[KeyedChain], directory: Path) -> None:
        self.chains, self.directory = chains, directory
        self.context = HandlerContext(lambda: 1e9)
        self.context.sealer.use(table(1))

    def file(self, content: bytes) -> str:
        path = self.directory / f"file{len(list(self.directory.iterdir()))}"
        path.write_bytes(content)
        return str(path)

    def prepare(self, *middlewares: dict[str, Any], routes: list[dict[str, Any]] | None = None) -> Prepared:
        default = [{"match": {"path": "/"}, "action": {"type": "static", "body": "secret"}, "middlewares": ["people"]}]
        content = {"middlewares": list(middlewares), "routes": routes or default}
        config = Config.from_json({"server": {"tls": {"self_signed": True}}, "content": content})
        roots = {}
        for path in self.directory.iterdir():
            with path.open("rb") as file:
                roots[str(path)] = Descriptor(__import__("os").dup(file.fileno()))
        return prepare(1, config, self.chains, roots, self.context)


@pytest.fixture(name="worker")
def _worker(chains: list[KeyedChain], tmp_path: Path) -> Worker:
    return Worker(chains, tmp_path)


async def get(prepared: Prepared, target: bytes, *fields: tuple[bytes, bytes]) -> Response:
    request = Request(b"GET", b"a.test", target, fields)
    answer: Any = prepared.requests.find(request).handle(request)
    found = await answer if isinstance(answer, Awaitable) else answer
    assert isinstance(found, Response)
    return found


async def test_paths_of_a_login_are_routed_on_the_hosts_of_the_middleware(worker: Worker) -> None:
    prepared = worker.prepare(OIDC)
    assert (await get(prepared, b"/.velocity/oidc/logout")).status == 303
    assert (await get(prepared, b"/.velocity/oidc/callback")).status == 400
    assert (await get(prepared, b"/.velocity/oidc/other")).status == 503, "no provider"
    names = {name for name, _ in (await get(prepared, b"/.velocity/oidc/logout")).headers}
    assert b"server" in names
    prepared.close()


def test_two_middlewares_cannot_have_the_same_path(worker: Worker) -> None:
    def route(path: str, *names: str) -> dict[str, Any]:
        return {"match": {"path": path}, "action": {"type": "static"}, "middlewares": list(names)}

    both = [OIDC, {**OIDC, "name": "others"}]
    with pytest.raises(ConfigError, match="two middlewares answer /"):
        worker.prepare(*both, routes=[route("/a", "people"), route("/b", "others")])
    paths = {"redirect_path": "/b/callback", "logout_path": "/b/logout"}
    worker.prepare(OIDC, {**both[1], **paths}, routes=[route("/a", "people"), route("/b", "others")]).close()
    worker.prepare(OIDC, routes=[route("/a", "people"), route("/b", "people")]).close()
    with pytest.raises(ConfigError, match="a middleware answers it"):
        worker.prepare(OIDC, routes=[route("/a", "people"), route("/.velocity/oidc/logout")])


@pytest.mark.parametrize(
    ("settings", "content", "said"),
    [
        ({"kind": "basic"}, b"alice:$2y$10$abc", "line 1: cannot verify a password of the kind '2y'"),
        ({"kind": "jwt", "key": "jwks"}, b"{}", "cannot use the key set"),
        ({"kind": "jwt", "key": "key"}, key_set(jwk("EC")), "cannot use the key: expected a public key"),
        ({"kind": "jwt", "key": "secret_file"}, b"short", "cannot use the secret: expected 32 bytes"),
        ({"kind": "oidc"}, b"\n", "expected one line with the secret"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_before_the_revision_serves(
    worker: Worker, settings: dict[str, str], content: bytes, said: str
) -> None:
    file = worker.file(content)
    key = {"basic": "users", "oidc": "client_secret_file"}.get(settings["kind"], settings.get("key", ""))
    base = OIDC if settings["kind"] == "oidc" else {"name": "people", "kind": settings["kind"]}
    with pytest.raises(ConfigError) as refused:
        worker.prepare({**base, key: file})
    assert said in str(refused.value)
    assert file in str(refused.value)
    assert len(worker.context.resources) == 0, "nothing stays leased"


async def test_what_was_learnt_outlives_a_reload_that_does_not_change_it(worker: Worker) -> None:
    users = worker.file(b"a:$scrypt$ln=10,r=8,p=1$" + b"A" * 22 + b"$" + b"A" * 43)
    section = {"name": "people", "kind": "basic", "users": users}
    first, second = worker.prepare(section), worker.prepare({**section, "realm": "new"})
    assert len(worker.context.resources) == 1
    first.close()
    assert len(worker.context.resources) == 1
    verifier = second.lease.take(Verifier, next(iter(worker.context.resources._leased))[1], lambda: pytest.fail("new"))
    assert isinstance(verifier, Verifier)
    second.close()
    assert len(worker.context.resources) == 0


@pytest.mark.parametrize(("key", "content"), [("jwks", key_set(jwk("EC", "k"))), ("key", public_pem("EC"))])
async def test_keys_of_files_are_used(worker: Worker, key: str, content: bytes) -> None:
    prepared = worker.prepare({"name": "people", "kind": "jwt", key: worker.file(content)})
    response = await get(prepared, b"/", (b"authorization", b"Bearer x"))
    assert response.status == 401
    prepared.close()


async def test_fields_about_clients_are_removed_on_open_routes_too(worker: Worker) -> None:
    file = worker.file(key_set(jwk("EC", "k")))
    section = {"name": "people", "kind": "jwt", "jwks": file, "forward": {"sub": "x-user"}}
    routes = [{"match": {"path": "/"}, "action": {"type": "static"}}]
    prepared = worker.prepare(section, routes=routes)
    request = Request(b"GET", b"a.test", b"/", ((b"x-user", b"root"),))
    prepared.requests.find(request).handle(request)
    assert request.upstream_drop == [b"x-user"]
    assert json.loads(key_set())["keys"] == []
    prepared.close()
