"""The status page in a real browser: everything of a node is there, on every screen, live, and readable.

`VELOCITY_PICTURES=DIR` keeps the pictures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chromium import Chromium, require
from tests.support.node import running_node
from tests.support.status_page import an_hour, busy, served
from tests.support.waiting import poll

pytestmark = pytest.mark.interop

SCREENS = {"phone": (390, 844), "desktop": (1440, 900), "wall": (2560, 1440)}
FAINT = (Path(__file__).parents[1] / "support" / "contrast.js").read_text()


@pytest.fixture
def documents() -> dict[str, Any]:
    return {"/status.json": busy(), "/history.json": an_hour(time.time())}


@pytest.fixture
def browser(documents: dict[str, Any]) -> Iterator[Chromium]:
    require()
    with served(documents) as port, Chromium("127.0.0.1", port, "", scheme="http") as chromium:
        yield chromium


def text(browser: Chromium, element: str) -> str:
    return str(browser.evaluate(f"document.getElementById('{element}').innerText"))


def loaded(browser: Chromium) -> None:
    poll(lambda: browser.evaluate("document.querySelectorAll('#workers tbody tr').length") == 5, "the workers")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_each_screen_shows_everything_and_nothing_overflows(
    browser: Chromium, screen: str, dark: bool, tmp_path: Path
) -> None:
    browser.look_at(*SCREENS[screen], dark=dark)
    browser.load("/")
    loaded(browser)
    kept = Path(os.environ.get("VELOCITY_PICTURES", tmp_path))
    (kept / f"status-{screen}-{'dark' if dark else 'light'}.png").write_bytes(browser.picture(whole=True))
    assert browser.complaints() == []
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = (
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"
    )
    assert browser.evaluate(cut) == []
    assert browser.evaluate(FAINT) == []
    shown = browser.evaluate("document.body.innerText")
    for expected in ("serving", "18\u202f442", "21.3", "X25519MLKEM768", "95.8 %", "10.0.0.4:8080", "down", "5 d"):
        assert expected in shown, expected
    assert "velocity-edge admin restart" in text(browser, "notes")
    assert "3 of 4 workers replaced" in text(browser, "motion")
    if screen == "wall":
        # Without a rolling restart everything is on the screen at once.
        height = "document.documentElement.scrollHeight - document.getElementById('motion').offsetHeight"
        assert browser.evaluate(height) <= SCREENS["wall"][1]


def test_the_page_is_live_and_comes_back_after_an_outage(browser: Chromium, documents: dict[str, Any]) -> None:
    browser.load("/")
    loaded(browser)
    assert text(browser, "connections") == "34\u202f534"
    first = documents.pop("/status.json")
    poll(lambda: text(browser, "word") == "no answer", "the page to notice the outage", 15.0)
    assert browser.evaluate("document.title") == "no answer · velocity-edge"
    for worker in first["workers"]:
        worker["connections"] = 1
    documents["/status.json"] = first | {"state": "quiesced", "degraded": [], "pressure": [], "rollout": None}
    poll(lambda: text(browser, "connections") == "5", "the page to come back", 15.0)
    assert text(browser, "word") == "quiesced"
    assert "velocity-edge admin resume" in text(browser, "notes")
    assert not browser.evaluate("document.body.classList.contains('lost')")


def test_a_drain_shows_its_phase_and_what_is_left(browser: Chromium, documents: dict[str, Any]) -> None:
    now_s = time.time()
    documents["/status.json"]["drain"] = {
        "phase": "live",
        "running": True,
        "since_at_s": now_s - 60,
        "phase_at_s": now_s - 20,
        "hard_stop_at_s": now_s + 60,
        "established": 1204,
        "running_requests": 7,
        "eta_s": 60.0,
        "verdict": "",
    }
    browser.load("/")
    loaded(browser)
    assert browser.evaluate("document.querySelector('[aria-current=step]').innerText") == "live"
    assert "1\u202f204 connections left, 7 requests running, about 60 s to go" in text(browser, "motion-text")
    assert 0.3 < browser.evaluate("document.getElementById('motion-bar').value") < 0.7


def test_text_of_the_network_is_no_markup(browser: Chromium, documents: dict[str, Any]) -> None:
    status = documents["/status.json"]
    status["degraded"] = ["<img src=x onerror=alert(1)> and `<b>`"]
    status["upstreams"][0]["upstream"] = "\u202e<script>1</script>"
    browser.load("/")
    loaded(browser)
    assert browser.evaluate("document.querySelectorAll('img, b b, #upstreams script').length") == 0
    assert "\\u{202e}<script>" in text(browser, "upstreams")
    assert browser.complaints() == []


def test_landmarks_and_tables_have_names(browser: Chromium) -> None:
    browser.load("/")
    loaded(browser)
    assert browser.evaluate("[...document.querySelectorAll('table')].every(t => t.caption && t.caption.innerText)")
    assert browser.evaluate("[...document.querySelectorAll('th')].every(t => t.scope)")
    name = "e.ariaLabel || document.getElementById(e.getAttribute('aria-labelledby'))"
    unnamed = f"[...document.querySelectorAll('section, [role=region]')].filter(e => !({name})).length"
    assert browser.evaluate(unnamed) == 0
    assert browser.evaluate("[...document.querySelectorAll('svg')].every(e => e.getAttribute('aria-label'))")
    assert browser.evaluate("document.querySelectorAll('header, main, footer, h1').length") == 4
    assert browser.evaluate("document.querySelectorAll('[aria-live=polite]').length") >= 2


def test_a_real_node_serves_it() -> None:
    require()
    with running_node("--metrics-listen", "127.0.0.1:0") as node:
        port = int(node.status()["metrics_listen"].rpartition(":")[2])
        with Chromium("127.0.0.1", port, "", scheme="http") as browser:
            browser.load("/")
            poll(lambda: browser.evaluate("document.querySelectorAll('#workers tbody tr').length") == 1, "the worker")
            assert text(browser, "word") == "serving"
            assert browser.complaints() == []
