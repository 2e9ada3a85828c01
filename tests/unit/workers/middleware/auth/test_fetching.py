"""Whatever goes wrong when a server is asked is one error; a name is watched once, and its last addresses stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from workers.middleware.auth.document import Unavailable
from workers.middleware.auth.fetching import Fetcher, document
from workers.middleware.auth.host_names import MAX_WATCHED, HostNames


@asynccontextmanager
async def server(answer: bytes | None) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers each connection with these bytes; None: never."""
    asked: list[bytes] = []
    waiting: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            waiting.append(writer)
            return
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", asked
    finally:
        listening.close()
        for writer in waiting:
            writer.close()
            await writer.wait_closed()


def response(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


async def test_a_document_is_fetched() -> None:
    async with server(response(b"{}")) as (url, asked):
        assert await document(Fetcher(5.0), url + "/keys?a=b") == b"{}"
    assert asked[0].startswith(b"GET /keys?a=b HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (response(b"", b"404 Not Found"), "status 404"),
        (response(b"", b"302 Found"), "status 302"),
        (response(b"x" * 101), "more than 100 bytes"),
        (b"SSH-2.0\r\n\r\n", "cannot fetch"),
        (b"", "cannot fetch"),
    ],
)
async def test_an_answer_that_cannot_be_used_is_unavailable(answer: bytes, said: str) -> None:
    async with server(answer) as (url, _):
        with pytest.raises(Unavailable, match=said) as failed:
            await document(Fetcher(5.0, max_bytes=100), f"{url}/keys?secret=s3cret")
    assert "s3cret" not in str(failed.value)


async def test_a_server_that_is_not_there_or_silent_is_unavailable() -> None:
    async with server(b"") as (url, _):
        pass
    with pytest.raises(Unavailable, match="cannot fetch"):
        await document(Fetcher(5.0), url)
    async with server(None) as (url, asked):
        with pytest.raises(Unavailable, match=r"within 0\.2 s"):
            await document(Fetcher(0.2), url)
        assert asked
    for url in ("http://names.test/", "ftp://127.0.0.1/", "http://127.0.0.1/\n"):
        with pytest.raises(Unavailable):
            await document(Fetcher(1.0), url)


class Names:
    """Names that a test resolves, or not."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[Callable[[Sequence[str], str], None]]] = {}
        self.found: dict[str, Sequence[str]] = {}

    def use(self, resolv_conf: str, hosts: str) -> None:
        """Part of the protocol."""

    def watch(self, host: str, on_result: Callable[[Sequence[str], str], None]) -> Watching:
        self.listeners.setdefault(host, []).append(on_result)
        if host in self.found:
            on_result(self.found[host], "")
        return Watching(self, host, on_result)

    def tell(self, host: str, *addresses: str) -> None:
        self.found[host] = addresses
        for listener in tuple(self.listeners.get(host, ())):
            listener(addresses, "")


class Watching:
    def __init__(self, names: Names, host: str, listener: Callable[[Sequence[str], str], None]) -> None:
        self.names, self.host, self.listener = names, host, listener

    def close(self) -> None:
        self.names.listeners[self.host].remove(self.listener)


async def test_a_name_is_watched_from_its_first_use_on() -> None:
    names = Names()
    hosts = HostNames(names)
    waiting = asyncio.ensure_future(hosts.resolve("a.test"))
    await asyncio.sleep(0)
    assert not waiting.done()
    names.tell("a.test", "192.0.2.1")
    assert await waiting == ["192.0.2.1"]
    assert len(names.listeners["a.test"]) == 1
    names.tell("a.test", "192.0.2.2")
    assert await hosts.resolve("a.test") == ["192.0.2.2"]
    names.tell("a.test")
    assert await hosts.resolve("a.test") == ["192.0.2.2"], "the last good ones, while there is no answer"
    assert len(names.listeners["a.test"]) == 1
    hosts.close()
    assert not names.listeners["a.test"]


async def test_a_name_without_addresses_has_none_and_is_asked_again() -> None:
    names = Names()
    hosts = HostNames(names)
    names.tell("a.test")
    assert await hosts.resolve("a.test") == []
    assert not names.listeners["a.test"]
    names.tell("a.test", "192.0.2.1")
    assert await hosts.resolve("a.test") == ["192.0.2.1"]


async def test_watched_names_are_bounded() -> None:
    names = Names()
    hosts = HostNames(names)
    for i in range(MAX_WATCHED + 3):
        names.tell(f"{i}.test", "192.0.2.1")
        assert await hosts.resolve(f"{i}.test") == ["192.0.2.1"]
    assert sum(map(len, names.listeners.values())) == MAX_WATCHED
