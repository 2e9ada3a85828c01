"""The cost of a worker's Python per request: `Exchanges._on_request` over an engine that does nothing.

    python -m bench.worker_path

Hot: a shared answer from the cache of the second. Routed: router, request, static handler and its file cache (what the
first request for a path pays each second). Logged: hot, with the JSON access log. Prints nanoseconds, median of rounds.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from velocity_edge.config.content import Site
from velocity_edge.http.requests import RequestReceived
from workers.handlers.static.beneath import Descriptor
from workers.handlers.static.site import StaticHandler
from workers.middleware.headers import SECURITY, AddHeaders, Date
from workers.pipeline import fold
from workers.serve import turns
from workers.serve.access_lines import json_line
from workers.serve.access_log import AccessRule
from workers.serve.exchanges import Exchanges
from workers.serve.revision import Revision
from workers.serve.router import Route, Router

ROUNDS = 9
REQUESTS = 20_000
#: Roughly the fields of a browser.
BROWSER = (
    (
        b"user-agent",
        b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    ),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"accept-language", b"en-GB,en;q=0.9"),
    (b"sec-fetch-site", b"none"),
    (b"sec-fetch-mode", b"navigate"),
    (b"sec-fetch-dest", b"document"),
    (b"priority", b"u=0, i"),
)


class NoEngine:
    """Discards responses."""

    def respond(self, stream: int, status: int, headers: Any, body: Any = None, *, fin: bool = True) -> bool:
        return True


def exchanges(root: Path, access: AccessRule | None = None) -> Exchanges:
    """Return a worker's objects for one site."""
    handler = StaticHandler(
        Descriptor(os.open(root, os.O_PATH | os.O_DIRECTORY)),
        Site.model_validate({"hostname": "*", "root": str(root)}, strict=False),
        time.time,
    )
    around = AddHeaders(((b"server", b"velocity-edge"), *SECURITY), Date(time.time))
    result = Exchanges(
        NoEngine(), lambda coroutine: None, lambda: None, send_high_bytes=1, write_log=lambda lines: None
    )  # type: ignore[arg-type]
    pipeline = fold([around], handler)
    result.use(Revision(1, Router([Route("*", "/", pipeline)], pipeline, pipeline).find, access))
    return result


def measure(subject: Exchanges, headers: Any, *, hot: bool) -> tuple[float, float, float]:
    """Return (median, least, most) nanoseconds per request, in batches of 100 as under load."""
    path = b"/index.html" if hot else b"/index.html?x"
    batch: list[Any] = [
        RequestReceived(1, n, b"GET", b"https", b"localhost:4433", path, headers, True) for n in range(100)
    ]
    results = []
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        for _ in range(REQUESTS // 100):
            if not hot:
                for event in batch:
                    subject._shared.forget()
                    subject.handle([event])
            else:
                subject.handle(batch)
            subject.access_log.flush()
        results.append((time.perf_counter_ns() - began) / REQUESTS)
    return statistics.median(results), min(results), max(results)


def main() -> None:
    """Print the table."""
    turns.TURN_NS = 10**12  # type: ignore[misc]  # nothing is deferred
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "index.html").write_bytes(b"x" * 1024)
        os.utime(root / "index.html", (1e9, 1e9))
        for title, headers, hot, line in (
            ("hot, 1 field", BROWSER[:1], True, None),
            ("hot, browser", BROWSER, True, None),
            ("hot, logged", BROWSER, True, AccessRule(json_line)),
            ("routed, browser", BROWSER, False, None),
        ):
            median, least, most = measure(exchanges(root, line), headers, hot=hot)
            print(f"{title:16} {median:7.0f} ns  ({least:.0f}-{most:.0f})")


if __name__ == "__main__":
    main()
