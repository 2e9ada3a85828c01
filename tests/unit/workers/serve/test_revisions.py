"""A reload replaces what it changes and keeps the rest: handlers, their caches, their descriptors.

A revision is known by the number that the supervisor gave it: a worker reports it in its Hello, where 0 says that it
never served. An error in one of several sites names that site.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import Clock, directory, write
from velocity_edge.config.model import Config
from velocity_edge.errors import ConfigError, Unavailable
from velocity_edge.pki.self_signed import self_signed
from velocity_edge.wire.messages import KeyedChain
from workers.handlers.build import HandlerContext
from workers.http import Request, Response
from workers.serve.revisions import Prepared, prepare


@pytest.fixture(name="chains", scope="module")
def _chains(tmp_path_factory: pytest.TempPathFactory) -> list[KeyedChain]:
    return [self_signed(tmp_path_factory.mktemp("state")).keyed]


class Worker:
    """The part of a worker that prepares and activates revisions."""

    def __init__(self, chains: list[KeyedChain]) -> None:
        self.chains = chains
        self.clock = Clock()
        self.context = HandlerContext(self.clock)
        self.active: Prepared | None = None
        self.number = 0

    def prepare(self, *sites: dict[str, Any], routes: list[dict[str, Any]] | None = None) -> Prepared:
        content = {"sites": list(sites), "routes": routes or []}
        config = Config.from_json({"server": {"tls": {"self_signed": True}}, "content": content})
        roots = {str(site.root): directory(site.root) for site in config.content.sites}
        self.number += 1
        return prepare(self.number, config, self.chains, roots, self.context)

    def activate(self, prepared: Prepared) -> Prepared:
        prepared.lease.begin()
        if self.active is not None:
            self.active.requests.replace()
        self.active = prepared
        return prepared

    def get(self, host: bytes, path: bytes, method: bytes = b"GET") -> Response:
        assert self.active is not None
        request = Request(method, host, path)
        response: Response | Awaitable[Response] = self.active.requests.find(request).handle(request)
        assert isinstance(response, Response)
        return response


@pytest.fixture(name="worker")
def _worker(chains: list[KeyedChain]) -> Worker:
    return Worker(chains)


def site(root: Path, hostname: str = "*", **settings: Any) -> dict[str, Any]:
    root.mkdir(exist_ok=True)
    return {"hostname": hostname, "root": str(root), **settings}


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def handler_behind(prepared: Prepared, host: bytes) -> object:
    """Return the handler inside the middleware that adds fields."""
    handle: Any = prepared.requests.find(Request(b"GET", host, b"/")).handle
    return next(
        cell.cell_contents for cell in handle.__closure__ if type(cell.cell_contents).__name__ == "StaticHandler"
    )


@pytest.mark.parametrize("sites", [0, 1, 3])
def test_a_revision_has_the_number_of_its_order(tmp_path: Path, worker: Worker, sites: int) -> None:
    worker.number = 6
    made = worker.prepare(*(site(tmp_path, f"{n}.test") for n in range(sites)))
    assert (made.number, made.requests.number) == (7, 7)


def test_a_site_that_cannot_be_served_is_named(tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = site(tmp_path / "good", "good.test"), site(tmp_path / "bad", "bad.test")

    def probe(fd: int, name: str) -> None:
        if name == bad["root"]:
            raise Unavailable(f"cannot serve files from {name}: user id 65534 may not read it")

    monkeypatch.setattr("workers.handlers.build.probe", probe)
    with pytest.raises(Unavailable, match=r"^content\.sites\[1\] \(bad\.test\): cannot serve files from .*/bad"):
        worker.prepare(good, bad)
    with pytest.raises(ConfigError, match=r"^content\.sites\[0\] \(good\.test\): cannot use .*404.html"):
        worker.prepare({**good, "error_pages": {"404": "/404.html"}})


def test_routes_of_one_path_are_one_entry_with_a_405_for_other_methods(tmp_path: Path, worker: Worker) -> None:
    routes = [
        {"match": {"path": "/a", "methods": ["GET"]}, "action": {"type": "static", "body": "one"}},
        {"match": {"path": "/b"}, "action": {"type": "static", "headers": {"X-A": "1"}}},
        {"match": {"path": "/a/", "methods": ["PUT"]}, "action": {"type": "static", "status": 201}},
    ]
    worker.activate(worker.prepare(site(tmp_path, "h"), routes=routes))
    assert worker.get(b"h", b"/a", b"PUT").status == 201
    assert worker.get(b"h", b"/a").body == b"one"
    assert (worker.get(b"h", b"/a", b"HEAD").status, worker.get(b"h", b"/a", b"HEAD").body) == (200, None)
    refused = worker.get(b"h", b"/a", b"POST")
    assert (refused.status, dict(refused.headers)[b"allow"]) == (405, b"GET, HEAD, PUT")
    assert dict(refused.headers)[b"server"] == b"velocity-edge"
    assert (b"x-a", b"1") in worker.get(b"h", b"/b", b"POST").headers
    assert worker.get(b"h", b"/c").status == 404
    assert worker.get(b"other", b"/a").status == 421


def test_a_host_with_a_proxy_alone_has_404_for_other_paths_and_405_for_other_methods(worker: Worker) -> None:
    proxy = {"hostname": "p", "path": "/app", "upstream": "http://127.0.0.1:1"}
    post = {"match": {"path": "/app/x", "methods": ["POST"]}, "action": {"type": "static"}}
    config = Config.from_json(
        {"server": {"tls": {"self_signed": True}}, "content": {"proxies": [proxy], "routes": [post]}}
    )
    worker.activate(prepare(1, config, worker.chains, {}, worker.context))
    assert worker.get(b"p", b"/other").status == 404
    assert worker.get(b"q", b"/app").status == 421
    refused = worker.get(b"p", b"/app/x")
    assert (refused.status, dict(refused.headers)[b"allow"]) == (405, b"POST")
    assert worker.get(b"p", b"/app/x", b"POST").status == 200
    assert worker.get(b"p", b"/x/..%2fapp").status == 400


def test_a_host_with_conditions_on_fields_shares_no_response(worker: Worker) -> None:
    """A shared response is found by host, path and coding alone."""
    beta = {"match": {"path": "/", "host": "a", "headers": {"x-beta": True}}, "action": {"type": "static"}}
    plain = {"match": {"path": "/", "host": ["a", "b"]}, "action": {"type": "static"}}
    made = worker.prepare(routes=[beta, plain])
    shares = {host: made.requests.find(Request(b"GET", host, b"/")).may_share for host in (b"a", b"b")}
    assert shares == {b"a": False, b"b": True}


def test_a_proxy_whose_files_did_not_come_is_refused(worker: Worker) -> None:
    proxied = {"match": {"path": "/"}, "action": {"type": "proxy", "upstream": "https://b", "tls": {"ca": "/x"}}}
    with pytest.raises(ConfigError, match=r"^content\.routes\[0\] \(\*\): cannot read /x: it did not come"):
        worker.prepare(routes=[proxied])


# --- the life of handlers


def test_a_reload_keeps_the_handler_and_the_cache_of_an_unchanged_site(tmp_path: Path, worker: Worker) -> None:
    write(tmp_path / "a" / "index.html", "a")
    unchanged, changed = site(tmp_path / "a", "a"), site(tmp_path / "b", "b")
    first = worker.activate(worker.prepare(unchanged, changed))
    body = worker.get(b"a", b"/").body
    second = worker.activate(worker.prepare({**unchanged, "security_headers": False}, {**changed, "listings": True}))
    assert handler_behind(second, b"a") is handler_behind(first, b"a")
    assert handler_behind(second, b"b") is not handler_behind(first, b"b")
    assert worker.get(b"a", b"/").body is body
    assert b"x-frame-options" not in dict(worker.get(b"a", b"/").headers)
    assert len(worker.context.resources) == 2


def test_a_directory_that_is_replaced_is_served_from_activation_on(tmp_path: Path, worker: Worker) -> None:
    root = tmp_path / "www"
    write(root / "index.html", "old")
    worker.activate(worker.prepare(site(root)))
    assert worker.get(b"h", b"/").body == b"old"
    root.rename(tmp_path / "before")
    write(root / "index.html", "new")
    prepared = worker.prepare(site(root))
    assert worker.get(b"h", b"/").body == b"old"
    worker.activate(prepared)
    assert worker.get(b"h", b"/").body == b"new"


def test_reloads_leave_no_descriptor_open(tmp_path: Path, worker: Worker) -> None:
    """Of unchanged, changed, added and removed sites, and of revisions that are refused or not activated."""
    for name in "abc":
        write(tmp_path / name / "large.bin", b"x" * 100_000)

    def settings(n: int) -> list[dict[str, Any]]:
        changed = site(tmp_path / "b", "b", cache_control=f"max-age={n}")
        return [site(tmp_path / "a", "a"), changed, *([site(tmp_path / "c", "c")] if n % 2 else [])]

    def reload(number: int) -> None:
        worker.activate(worker.prepare(*settings(number)))
        for host in (b"a", b"b", *([b"c"] if number % 2 else [])):
            assert worker.get(host, b"/large.bin").status == 200
        worker.prepare(*settings(number + 100)).close()
        with pytest.raises(ConfigError):
            worker.prepare(*settings(number + 200), site(tmp_path / "a", "d", error_pages={"404": "none.html"}))

    reload(0)
    before = open_descriptors()
    for number in range(1, 51):
        reload(number)
    assert open_descriptors() == before
    assert len(worker.context.resources) == 2
    assert worker.active is not None
    worker.active.close()
    assert len(worker.context.resources) == 0


def test_a_replaced_revision_is_closed_after_its_last_request(tmp_path: Path, worker: Worker) -> None:
    write(tmp_path / "a" / "large.bin", b"x" * 100_000)
    first = worker.activate(worker.prepare(site(tmp_path / "a", "a")))
    worker.get(b"a", b"/large.bin")
    handler: Any = handler_behind(first, b"a")
    first.requests.enter()
    worker.activate(worker.prepare())
    assert len(worker.context.resources) == 1
    assert handler._files._entries
    first.requests.leave(None)
    assert len(worker.context.resources) == 0
    assert not handler._files._entries
