"""A changed file is in use after two polls, however it was replaced; a bad file changes nothing and is reported.

A connection that was open before survives all of it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.certificates import Certificate, make_certificate
from tests.support.node import ENGINES, Node, require_engine, running_node
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Connection, Options, connect

CONFIG = """\
server:
  listen: 127.0.0.1:0
  workers: WORKERS
  engine: ENGINE
  tls:
    certificate: DATA/certificate.pem
    private_key: DATA/key.pem
EXTRA
content:
  sites:
    - hostname: "*"
      root: ROOT
"""


def text(
    *, workers: int = 1, engine: str = "auto", data: str = "DIRECTORY", root: str = "DIRECTORY/root", extra: str = ""
) -> str:
    """Return the file; *extra* are more lines of the section `server`."""
    values = {"WORKERS": str(workers), "ENGINE": engine, "DATA": data, "ROOT": root, "EXTRA\n": extra}
    filled = CONFIG
    for name, value in values.items():
        filled = filled.replace(name, value)
    return filled


async def get(connection: Connection) -> str:
    response = await connection.request("GET", "/")
    body = b"".join([chunk async for chunk in response])
    assert response.status == 200
    return body.decode()


def with_a_connection(node: Node, play: Callable[[Connection], Awaitable[None]]) -> None:
    """Run *play*; a connection that was open before must be open after it."""

    async def run() -> None:
        async with connect(node.url(), Options(cafile=node.ca, timeout_s=20.0)) as connection:
            await get(connection)
            await play(connection)
            await get(connection)

    asyncio.run(run())


def last_reload(node: Node) -> tuple[int, bool, str]:
    reload = node.status()["last_reload"]
    return (reload["revision"], reload["ok"], reload["reason"]) if reload else (1, True, "")


async def reloaded(node: Node, change: Callable[[], object], *, ok: bool = True) -> str:
    """Make the change, wait until the node has loaded it, and return what the node reports."""
    before, _, _ = last_reload(node)
    change()
    revision, worked, reason = await asyncio.to_thread(
        poll, lambda: (now := last_reload(node))[0] > before and now, "a reload", 30
    )
    assert (worked, revision) == (ok, before + 1), reason
    return reason


def replace(path: Path, content: str | bytes) -> None:
    """As editors, Ansible and certbot do."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_bytes(content if isinstance(content, bytes) else content.encode())
    aside.replace(path)


def swap(link: Path, target: str) -> None:
    """As kubelet and deployments by symlink do."""
    aside = link.with_name(f"{link.name}.new")
    aside.symlink_to(target)
    aside.replace(link)


@contextmanager
def node_in_layout(config: str) -> Iterator[tuple[Node, Path]]:
    """A node whose certificate and site are behind symlinks; yield it and the folder of those."""
    live = Path(tempfile.mkdtemp(prefix="ve-live-", dir="/tmp"))
    live.chmod(0o755)
    for name in ("one", "aside", "v1", "v2"):
        (live / name).mkdir()
    make_certificate(live / "one", "localhost", "127.0.0.1")
    for name in ("v1", "v2"):
        (live / name / "index.html").write_text(f"<p>{name}</p>")
    (live / "data").symlink_to("one")
    (live / "site").symlink_to("v1")
    try:
        with running_node(config=config.replace("LIVE", str(live))) as node:
            node.certificate = Certificate(live / "one" / "certificate.pem", live / "one" / "key.pem")
            yield node, live
    finally:
        shutil.rmtree(live)


@pytest.mark.slow
def test_each_way_to_replace_a_file_is_detected_and_a_bad_file_is_refused() -> None:
    with node_in_layout(text(data="LIVE/data", root="LIVE/site")) as (node, live):
        file, data = node.directory / "serve.yaml", live / "one"
        config = file.read_text()

        def fresh() -> tuple[bytes, bytes]:
            made = make_certificate(live / "aside", "localhost", "127.0.0.1")
            return made.chain.read_bytes(), made.key.read_bytes()

        async def play(connection: Connection) -> None:
            async def shows(content: bytes) -> None:
                (live / "ca.pem").write_bytes(content)
                async with connect(node.url(), Options(cafile=live / "ca.pem", timeout_s=20.0)) as fresh:
                    await get(fresh)
                await get(connection)

            def put(folder: Path, write: Callable[[Path, bytes], object]) -> bytes:
                chain, key = fresh()
                write(folder / "key.pem", key)
                write(folder / "certificate.pem", chain)
                return chain

            await reloaded(node, lambda: put(data, replace))
            await shows((data / "certificate.pem").read_bytes())
            await reloaded(node, lambda: put(data, Path.write_bytes))
            await shows((data / "certificate.pem").read_bytes())
            (live / "two").mkdir()
            good = put(live / "two", Path.write_bytes)
            await reloaded(node, lambda: swap(live / "data", "two"))
            await shows(good)

            await reloaded(node, lambda: swap(live / "site", "v2"))
            assert await get(connection) == "<p>v2</p>"

            # A bad one, then a good one.
            reason = await reloaded(node, lambda: replace(live / "two" / "certificate.pem", b"nonsense"), ok=False)
            assert f"{live}/data/certificate.pem" in reason
            await shows(good)
            await reloaded(node, lambda: replace(live / "two" / "certificate.pem", good))

            broken = config.replace("  workers:", "  log_levle: debug\n  workers:")
            where = f"{file}:3:3: server.log_levle: cannot understand this key"
            reason = await reloaded(node, lambda: replace(file, broken), ok=False)
            assert reason.startswith(where)
            assert where in node.log
            assert any(where in sentence for sentence in node.status()["degraded"])
            assert where in node.command("status").stdout
            metric = b"\nvelocity_config_last_reload_success "
            assert metric + b"0.0\n" in node.admin("GET", "/v1/metrics")[1]
            await get(connection)
            await reloaded(node, lambda: replace(file, config))
            assert metric + b"1.0\n" in node.admin("GET", "/v1/metrics")[1]
            assert not any("reload" in sentence for sentence in node.status()["degraded"])

        with_a_connection(node, play)


LIMITS = """\
  limits:
    max_streams_bidi: STREAMS
    idle_timeout: 20s
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_changed_limits_apply_to_new_connections_only(engine: str) -> None:
    require_engine(engine)
    with running_node(config=text(engine=engine, extra=LIMITS.replace("STREAMS", "7"))) as node:
        file = node.directory / "serve.yaml"
        before = [worker["pid"] for worker in node.status()["workers"]]

        async def play(connection: Connection) -> None:
            await reloaded(
                node, lambda: replace(file, file.read_text().replace("max_streams_bidi: 7", "max_streams_bidi: 3"))
            )
            async with connect(node.url(), Options(cafile=node.ca, timeout_s=20.0)) as fresh:
                await get(fresh)
                told = [c._quic._remote_max_streams_bidi for c in (connection, fresh)]  # type: ignore[attr-defined]
                # Finished streams permit new ones, so these are the minimum.
                assert told[0] >= 7 > told[1] >= 3

        with_a_connection(node, play)
        assert [worker["pid"] for worker in node.status()["workers"]] == before, "no worker was restarted"


def test_engine_change_restarts_workers_and_impossible_changes_are_refused() -> None:
    require_engine("native")
    with running_node(config=text(engine="native")) as node:
        file = node.directory / "serve.yaml"
        config = file.read_text()

        async def play(_: Connection) -> None:
            slots = max(1, len(os.sched_getaffinity(0)))
            many = config.replace("workers: 1", f"workers: {slots + 1}")
            reason = await reloaded(node, lambda: replace(file, many), ok=False)
            assert f"server.workers: {slots + 1} workers need a restart of the node" in reason
            await reloaded(node, lambda: replace(file, config.replace("native", "portable")))

        with_a_connection(node, play)

        def portable() -> bool:
            return [w["engine"] for w in node.status()["workers"]] == ["portable"]

        poll(portable, "a worker with the other engine", 60)
        rollout = node.status()["rollout"]
        assert rollout is not None
        assert (rollout["state"], rollout["lost"]) == ("done", 0)


@pytest.mark.slow
@pytest.mark.root
def test_site_that_workers_may_not_read_is_refused_by_name() -> None:
    """Root may read it, the workers' user may not; the refusal must name the site."""
    with node_in_layout(text(data="LIVE/data", root="LIVE/site")) as (node, live):
        (live / "private").mkdir(mode=0o700)
        (live / "private" / "index.html").write_text("<p>private</p>")
        file = node.directory / "serve.yaml"
        config = file.read_text()
        added = f"{config}    - hostname: docs.example.test\n      root: {live}/private\n"

        async def play(connection: Connection) -> None:
            reason = await reloaded(node, lambda: replace(file, added.encode()), ok=False)
            assert "content.sites[1] (docs.example.test): cannot serve files from" in reason
            assert f"{live}/private" in reason
            assert "may not read it" in reason
            assert "<p>v1</p>" in await get(connection)
            (live / "private").chmod(0o755)
            await reloaded(node, lambda: replace(file, f"{added}# again\n".encode()))

        with_a_connection(node, play)
        assert node.status()["restarts"] == 0
