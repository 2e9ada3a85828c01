"""Chromium shows the page with its picture over HTTP/3 with X25519MLKEM768, on both engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.conftest import png
from tests.support.chromium import Chromium, require
from tests.support.node import ENGINES, Node, running_node
from tests.support.waiting import poll

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def test_page_is_rendered(edge: Node) -> None:
    """DevTools reports h3 and X25519MLKEM768 for every part of the page, and the picture is rendered."""
    require()
    with Chromium("velocity.test", edge.port, edge.certificate.spki_pin) as browser:
        page = browser.load("/")
        assert (page.status, page.protocol) == (200, "h3")
        assert page.security["keyExchangeGroup"] == "X25519MLKEM768"
        assert page.title == "velocity-edge"
        assert "It works" in page.text
        assert (page.images_shown, page.images) == (1, 1)
        wanted = dict.fromkeys(("/", "/style.css", "/picture.png"), "h3")
        assert {path: page.resources.get(path) for path in wanted} == wanted
        # A blank page of this size is a few kB of PNG; the picture and the text make it larger.
        assert page.screenshot_png.startswith(b"\x89PNG")


def test_second_page_uses_the_same_connection(edge: Node) -> None:
    """Navigation to another page works: 404 is shown as a page, not as an error of the browser."""
    require()
    with Chromium("velocity.test", edge.port, edge.certificate.spki_pin) as browser:
        assert browser.load("/").status == 200
        missing = browser.load("/nothing-here")
        assert (missing.status, missing.protocol) == (404, "h3")


@pytest.mark.parametrize("engine", ENGINES)
def test_page_is_rendered_after_a_retry(engine: str) -> None:
    """A browser whose address must be validated first gets its page."""
    require()
    with (
        running_node("--set", "server.limits.retry_threshold=0", engine=engine) as node,
        Chromium("velocity.test", node.port, node.certificate.spki_pin) as browser,
    ):
        page = browser.load("/")
        assert (page.status, page.security["keyExchangeGroup"]) == (200, "X25519MLKEM768")
        node.counter("verdict_retried", at_least=1)


@pytest.mark.parametrize("n_bytes", [0, 1000, 100_000, 3_000_000])
def test_unwanted_upload_is_answered(edge: Node, n_bytes: int) -> None:
    """A static site answers 405 before the body has arrived, and the browser shows it; then it continues."""
    require()
    with Chromium("velocity.test", edge.port, edge.certificate.spki_pin) as browser:
        browser.load("/")
        answer = f"fetch('/letters.txt', {{method: 'POST', body: new Uint8Array({n_bytes})}}).then(r => r.status)"
        assert browser.evaluate(_within_ten_seconds(answer)) == 405
        poll(lambda: edge.status()["counters"]["streams"] == 0, "streams that are over")
        assert browser.load("/").status == 200


def _within_ten_seconds(promise: str) -> str:
    return f"Promise.race([{promise}, new Promise(r => setTimeout(() => r('no answer'), 10000))])"


IMAGES = 300


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("max_streams_bidi", [5, 100])
def test_page_of_three_hundred_images_is_complete(engine: str, max_streams_bidi: int, tmp_path: Path) -> None:
    """Chromium prioritises each of its requests (RFC 9218), and sends three times the stream limit."""
    require()
    tmp_path.chmod(0o755)
    for n in range(IMAGES):
        (tmp_path / f"{n}.png").write_bytes(png(20, 20, (n % 256, n // 256, 50)))
    images = "".join(f"<img src={n}.png width=20 height=20>" for n in range(IMAGES))
    (tmp_path / "index.html").write_text(f"<!doctype html><title>many</title>{images}")
    with (
        running_node(
            "--set", f"server.limits.max_streams_bidi={max_streams_bidi}", engine=engine, root=tmp_path
        ) as node,
        Chromium("velocity.test", node.port, node.certificate.spki_pin) as browser,
    ):
        page = browser.load("/")
        assert (page.images_shown, page.images) == (IMAGES, IMAGES)
        assert set(page.resources.values()) == {"h3"}
        counters = node.status()["counters"]
        assert {name: n for name, n in counters.items() if name.startswith("closed_") and n} == {}
