"""The page of a directory is made in slices, once for concurrent requests, and bounded in names and bytes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import orjson
import pytest

from tests.support.site import Clock, get, handler, header, write
from workers.handlers.static import listing as module
from workers.handlers.static.beneath import Descriptor
from workers.handlers.static.listing import Busy, Listings, listing
from workers.handlers.static.listing_page import Look


def directory(path: Path) -> Descriptor:
    return Descriptor(os.open(path, os.O_RDONLY | os.O_DIRECTORY))


def fill(path: Path, names: int) -> Path:
    path.mkdir(exist_ok=True)
    for number in range(names):
        (path / f"{number:06}").touch()
    return path


async def test_the_loop_runs_after_every_hundred_names(tmp_path: Path) -> None:
    folder = directory(fill(tmp_path / "many", 2000))
    turns = 0
    task = asyncio.get_running_loop().create_task(listing(folder.fd, b"/", Look(), hidden_files=False))
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 2 * 2000 // module.SLICE_NAMES
    assert (await task).body.count(b"<tr>") == 2000  # type: ignore[union-attr]


async def test_concurrent_requests_and_those_of_the_same_second_get_one_page(tmp_path: Path) -> None:
    clock = Clock()
    listings, folder = Listings(clock), directory(fill(tmp_path / "many", 300))
    key = (3, b"/many/", False, Look())
    pages = await asyncio.gather(*(listings.page(key, folder) for _ in range(100)))
    assert len({id(page.body) for page in pages}) == 1
    (tmp_path / "many" / "new").touch()
    assert (await listings.page(key, folder)) is pages[0]
    clock.now_s += 1
    assert b"new" in (await listings.page(key, folder)).body  # type: ignore[operator]


async def test_an_unchanged_page_shares_the_memory_of_the_previous_one(tmp_path: Path) -> None:
    """Otherwise clients that do not read could hold one copy per second."""
    clock = Clock()
    listings, folder = Listings(clock), directory(fill(tmp_path / "many", 10))
    key = (3, b"/many/", False, Look())
    first = await listings.page(key, folder)
    clock.now_s += 1
    assert (await listings.page(key, folder)).body is first.body


async def test_a_cancelled_request_does_not_cancel_the_page_for_others(tmp_path: Path) -> None:
    listings, folder = Listings(Clock()), directory(fill(tmp_path / "many", 500))
    key = (3, b"/", False, Look())
    first = asyncio.create_task(listings.page(key, folder))
    await asyncio.sleep(0)
    second = asyncio.create_task(listings.page(key, folder))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).status == 200


async def test_one_page_is_made_at_a_time_and_few_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listings, folder = Listings(Clock()), directory(fill(tmp_path / "many", 150))
    making = most = 0
    real = listing

    async def counted(*arguments: object, **named: object) -> object:
        nonlocal making, most
        making += 1
        most = max(most, making)
        try:
            return await real(*arguments, **named)  # type: ignore[arg-type]
        finally:
            making -= 1

    monkeypatch.setattr(module, "listing", counted)
    keys = [(3, b"/%d/" % number, False, Look()) for number in range(module.MAX_WAITING + 1)]
    tasks = [asyncio.create_task(listings.page(key, folder)) for key in keys]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await tasks[-1]
    await asyncio.gather(*tasks[:-1])
    assert most == 1
    await listings.page(keys[-1], folder)


async def test_kept_pages_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_KEPT_BYTES", 50_000)
    listings, folder = Listings(Clock()), directory(fill(tmp_path / "many", 50))
    for number in range(50):
        await listings.page((3, b"/%d/" % number, False, Look()), folder)
        assert listings._kept_bytes <= 50_000
    assert 2 < len(listings._made) < 20


@pytest.mark.parametrize(("bound", "value"), [("MAX_ENTRIES", 100), ("MAX_PAGE_BYTES", 7_000), ("MAX_SCANNED", 100)])
async def test_a_larger_directory_is_truncated_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    folder = directory(fill(tmp_path / "many", 300))
    monkeypatch.setattr(module, bound, value)
    page = await listing(folder.fd, b"/", Look(), hidden_files=False)
    assert isinstance(page.body, bytes)
    shown = page.body.count(b"<tr>")
    assert 50 < shown <= 100
    assert b"The first %d entries; there are more." % shown in page.body
    assert header(page, b"velocity-listing") == b"cut"
    listed = await listing(folder.fd, b"/", Look("json"), hidden_files=False)
    assert header(listed, b"velocity-listing") == b"cut"
    assert isinstance(listed.body, bytes)
    assert len(orjson.loads(listed.body)) < 300


async def test_hidden_names_count_towards_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SCANNED", 50)
    for number in range(200):
        (tmp_path / f".hidden{number}").touch()
    folder = directory(tmp_path)
    page = await listing(folder.fd, b"/", Look(), hidden_files=False)
    assert header(page, b"velocity-listing") == b"cut"


def test_different_encodings_of_a_path_are_one_page(tmp_path: Path) -> None:
    write(tmp_path / "many/a", "x")
    static = handler(tmp_path, listings=True)
    pages = {id(get(static, spelling).body) for spelling in (b"/many/", b"/%6dany/", b"/m%61ny/?x=1")}
    assert len(pages) == 1


def test_names_are_escaped_in_the_page(tmp_path: Path) -> None:
    for name in ("a\u202egpj.exe", "b\x1b[2J", "c\nd", "e\u200bf"):
        write(tmp_path / "many" / name, "x")
    static = handler(tmp_path, listings=True)
    for accept in (b"text/html", b"application/json", b"text/plain"):
        body = get(static, b"/many/", (b"accept", accept)).body
        assert isinstance(body, bytes)
        assert not {"\u202e", "\x1b", "\u200b"} & set(body.decode())
    assert b"%E2%80%AE" in get(static, b"/many/").body  # type: ignore[operator]
