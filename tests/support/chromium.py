"""Chromium, headless, driven through its DevTools pipe: a real page load, and the browser's report of it.

The protocol travels over two pipes (descriptors 3 and 4, one JSON message ended by a zero byte), so no port is taken
and no WebSocket is needed. A new profile each time: no state is kept, in particular no Alt-Svc.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pytest


@dataclass(frozen=True, slots=True)
class Page:
    """A page as the browser loaded it."""

    status: int
    #: "h3", "h2", ...
    protocol: str
    #: DevTools' securityDetails: keyExchangeGroup, cipher, protocol, serverSignatureAlgorithm, encryptedClientHello.
    security: dict[str, Any]
    title: str
    text: str
    #: Images of the page that were decoded (naturalWidth > 0), of all its images.
    images_shown: int
    images: int
    #: URL -> protocol, of everything that was loaded.
    resources: dict[str, str]
    screenshot_png: bytes = field(repr=False)


def require() -> str:
    """Return the browser's path, or skip."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("no chromium (apt-get install chromium; make test does it as root)")
    return path


class Chromium:
    """A browser for one host: *host* is mapped to loopback and contacted with QUIC from the start."""

    def __init__(
        self, host: str, port: int, spki_pin: str, *, scheme: str = "https", features: Sequence[str] = ()
    ) -> None:
        """*scheme*: `http` for a page that is not served by HTTP/3. *features* are switched on."""
        self.origin = f"{scheme}://{host}:{port}"
        self._profile = tempfile.mkdtemp(prefix="ve-chromium-")
        read_end, write_commands = os.pipe()
        read_answers, write_end = os.pipe()
        self._commands, self._answers = write_commands, read_answers
        self._number = 0
        self._buffer = b""
        self._events: list[dict[str, Any]] = []
        argv = [
            require(),
            "--headless=new",
            "--no-sandbox",  # as root it has none
            *("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--no-default-browser-check"),
            f"--user-data-dir={self._profile}",
            # A self-signed certificate is trusted by its public key; anything else stays an error.
            f"--ignore-certificate-errors-spki-list={spki_pin}",
            f"--origin-to-force-quic-on={host}:{port}",
            f"--host-resolver-rules=MAP {host} 127.0.0.1",
            *([f"--enable-features={','.join(features)}"] if features else []),
            "--remote-debugging-pipe",
            "about:blank",
        ]
        # The shell moves the pipes to descriptors 3 and 4.
        shell = f'exec "$@" 3<&{read_end} 4>&{write_end}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", *argv],
            pass_fds=(read_end, write_end),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "TMPDIR": self._profile},
        )
        os.close(read_end)
        os.close(write_end)

    def __enter__(self) -> Chromium:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Log", "Network", "Page", "Runtime"):
            self._call(f"{domain}.enable", page=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A regular exit closes its connections, so that a node need not wait for them.
        with suppress(Exception):
            self._call("Browser.close")
            self._process.wait(5)
        # Its own process group: the helper processes end with it.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        shutil.rmtree(self._profile, ignore_errors=True)

    def load(self, path: str = "/", timeout_s: float = 30.0) -> Page:
        """Open a page and wait until it has loaded all its parts."""
        self._events.clear()
        answer = self._call("Page.navigate", page=True, url=self.origin + path)
        assert not answer.get("errorText"), f"Chromium cannot open {self.origin + path}: {answer['errorText']}"
        self._wait_for("Page.loadEventFired", timeout_s)
        responses = [e["params"]["response"] for e in self._events if e.get("method") == "Network.responseReceived"]
        document = next(r for r in responses if r["url"] == self.origin + path)
        shot = self._call("Page.captureScreenshot", page=True, format="png")
        return Page(
            status=document["status"],
            protocol=document["protocol"],
            security=document.get("securityDetails", {}),
            title=self.evaluate("document.title"),
            text=self.evaluate("document.body.innerText"),
            images_shown=self.evaluate("[...document.images].filter(i => i.naturalWidth > 0).length"),
            images=self.evaluate("document.images.length"),
            resources={r["url"].removeprefix(self.origin): r["protocol"] for r in responses},
            screenshot_png=base64.b64decode(shot["data"]),
        )

    def look_at(self, width: int, height: int, *, dark: bool) -> None:
        """Have a screen of this size in CSS pixels, and a preference for the colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", page=True, **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", page=True, features=[scheme])

    def picture(self, *, whole: bool = False) -> bytes:
        """Return what the screen shows as PNG; *whole*: the page, also what is below the screen."""
        shot = self._call("Page.captureScreenshot", page=True, format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def complaints(self) -> list[str]:
        """Return what the browser has complained about since the page was opened: errors, warnings, violations."""
        self.evaluate("0")  # what it has said until now has arrived
        found = []
        for event in self._events:
            match event:
                case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                    found.append(str(details.get("exception", details).get("description", details)))
                case {"method": "Runtime.consoleAPICalled", "params": {"type": "error" | "warning", "args": arguments}}:
                    found.append(str([argument.get("value") for argument in arguments]))
                case {"method": "Log.entryAdded", "params": {"entry": {"level": "error" | "warning", "text": text}}}:
                    found.append(str(text))
        return found

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression on the page; of a promise, its result."""
        answer = self._call("Runtime.evaluate", page=True, expression=expression, awaitPromise=True, returnByValue=True)
        return answer["result"].get("value")

    def _call(self, method: str, *, page: bool = False, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if page:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while (answer := self._receive(deadline)).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer}"
        return dict(answer["result"])

    def _wait_for(self, method: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._receive(deadline))

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium said nothing in time; last events: {self._events[-5:]}"
            data = os.read(self._answers, 1 << 20)
            assert data, "Chromium ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))
