"""The status page with numbers of a busy node that has everything a page can show, for tests and pictures.

with served(busy()) as port: ...          a server on loopback with the page, its headers, and these documents
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from supervisor.admin.metrics_listener import PAGE, PAGE_HEADERS
from velocity_edge.status.document import NodeStatus
from velocity_edge.status.history import EVERY_S, KEEP
from velocity_edge.wire.counters import TOTALS


def busy(now_s: float | None = None) -> NodeStatus:
    """Return a status in which nothing is empty."""
    now = time.time() if now_s is None else now_s
    counters = dict.fromkeys((*TOTALS, "connections", "half_open", "streams", "rss_bytes"), 0)
    counters |= {
        "requests": 184_233_019,
        "handshakes_completed": 2_404_120,
        "handshakes_x25519mlkem768": 2_291_007,
        "handshakes_secp256r1mlkem768": 1_204,
        "handshakes_secp384r1mlkem1024": 10_022,
        "handshakes_classical": 101_887,
        "handshakes_failed": 812,
        "handshakes_timed_out": 97,
        "migrations": 12_044,
    }
    workers: list[Any] = [
        {
            "worker_id": 41_200 + n,
            "slot": n,
            "core": n % 4,
            "pid": 0,
            "state": "ready" if n < 4 else "draining",
            "version": "0.2.0" if n < 4 else "0.1.0",
            "engine": "native",
            "engine_reason": "",
            "connections": (8_412, 7_990, 9_120, 8_700, 312)[n],
            "half_open": (12, 9, 15, 10, 0)[n],
            "requests": 40_000_000 + 100 * n,
            "loop_lag_ms": 0.4 + n / 3,
            "rss_bytes": (180 + 7 * n) * 2**20,
            "revision": 14 if n < 4 else 13,
            "age_s": 7_412.0 + 90_000 * (n == 4),
            "silent_s": 0.0,
        }
        for n in range(5)
    ]
    epochs: list[Any] = [
        {
            "epoch": 9,
            "age_s": 20_000.0,
            "state": "seals",
            "opens_until_s": None,
            "ids_live": True,
            "connections": 30_210,
        },
        {
            "epoch": 8,
            "age_s": 63_200.0,
            "state": "opens",
            "opens_until_s": now + 9_000,
            "ids_live": True,
            "connections": 4_324,
        },
        {
            "epoch": 7,
            "age_s": 106_400.0,
            "state": "closed",
            "opens_until_s": now - 100,
            "ids_live": True,
            "connections": 0,
        },
    ]
    return {
        "api_version": 1,
        "state": "serving",
        "state_at_s": now - 7_400,
        "reason": "",
        "version": "0.2.0",
        "pid": 1,
        "node_id": 2_864_434_397,
        "started_at_s": now - 97_412,
        "uptime_s": 97_412.0,
        "runtime_dir": "/run/velocity",
        "dispatch": {
            "tier": "C",
            "mode": "xdp",
            "missing": "tier D (xdp-cpumap): one RX queue only",
            "adopted": True,
            "interfaces": ["eth0 (native)"],
        },
        "listeners": ["0.0.0.0:443", "[::]:443"],
        "groups": ["X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024", "x25519"],
        "metrics_listen": "127.0.0.1:9300",
        "certificates": [
            {
                "name": "example.com.pem",
                "fingerprint": "AB",
                "spki_pin": "",
                "names": ["example.com", "www.example.com"],
                "not_after_s": now + 61 * 86_400,
                "self_signed": False,
            },
            {
                "name": "api.pem",
                "fingerprint": "CD",
                "spki_pin": "",
                "names": ["api.example.com"],
                "not_after_s": now + 5 * 86_400,
                "self_signed": False,
            },
        ],
        "workers": workers,
        "drain": None,
        "left": [],
        "disabled": False,
        "restarts": 2,
        "adoptions": 3,
        "counters": counters,
        "packets": {
            "xdp": {"passed_known": 812_334_120, "passed_initial": 2_600_410, "dropped_initial_limit": 88_120},
            "select": {"known": 810_111_020, "new": 2_500_204, "pinned": 1_204_410},
            "worker": {
                "verdict_delivered": 809_600_113,
                "verdict_accepted": 2_405_029,
                "verdict_retried": 12_400,
                "verdict_handed_over": 40_210,
                "verdict_dropped_malformed": 1_204,
            },
        },
        "buffers": {"receive_wanted": 8 << 20, "receive_got": 8 << 20, "send_wanted": 8 << 20, "send_got": 8 << 20},
        "keys": {"seal_with": 9, "ages_s": {}, "epochs": epochs, "storage": "", "anew_at_s": None, "anew_reason": ""},
        "last_reload": {"revision": 14, "ok": True, "reason": "", "at_s": now - 7_400, "took_s": 0.2},
        "rollout": {
            "state": "handing_over",
            "running": True,
            "total": 4,
            "done": 3,
            "lost": 0,
            "reason": "",
            "progress": "worker 41204 drains, 312 connections left",
        },
        "pressure": [
            {
                "rule": "shield_limit",
                "text": "the shield drops what exceeds the rate of its network (dispatch.initials_per_s)",
                "since_at_s": now - 320,
                "per_s": 412.0,
                "total": 88_120,
            }
        ],
        "traffic": {
            "window_s": 60.0,
            "requests_per_s": 18_442.0,
            "errors_per_s": 3.4,
            "handshakes_per_s": 212.0,
            "dropped_per_s": 414.0,
            "sent_bytes_per_s": 240.0 * 2**20,
            "p50_s": 0.00042,
            "p99_s": 0.0213,
            "handshake_p95_s": 0.061,
            "pq_share": 0.957,
        },
        "upstreams": [
            {
                "upstream": "10.0.0.3:8080",
                "healthy_workers": 4,
                "requests": 8_120_044,
                "errors_5xx": 210,
                "failed": 12,
                "retries": 9,
                "ejections": 0,
                "running": 14,
                "idle": 22,
                "p50_s": 0.0021,
                "p99_s": 0.044,
            },
            {
                "upstream": "10.0.0.4:8080",
                "healthy_workers": 0,
                "requests": 6_010_220,
                "errors_5xx": 8_114,
                "failed": 3_210,
                "retries": 2_900,
                "ejections": 3,
                "running": 0,
                "idle": 0,
                "p50_s": 0.0031,
                "p99_s": 1.2,
            },
            {
                "upstream": "unix:/run/app.sock",
                "healthy_workers": 4,
                "requests": 91_200,
                "errors_5xx": 0,
                "failed": 0,
                "retries": 0,
                "ejections": 0,
                "running": 1,
                "idle": 3,
                "p50_s": 0.0007,
                "p99_s": 0.0044,
            },
        ],
        "degraded": ["1 workers run 0.1.0: `velocity-edge admin restart` replaces them by 0.2.0"],
    }


def an_hour(now_s: float) -> dict[str, Any]:
    """Return a history of a whole hour, with a pause in it."""
    steps = range(KEEP)

    def wave(middle: float, by: float, fast: float = 1.0) -> list[float]:
        return [middle + by * math.sin(fast * n / 40) + by / 4 * math.sin(n * 1.7) for n in steps]

    return {
        "every_s": EVERY_S,
        "keep": KEEP,
        "at_s": [now_s - EVERY_S * (KEEP - 1 - n) for n in steps],
        "connections": [int(n) for n in wave(33_000, 3_000)],
        "requests_per_s": wave(17_000, 3_500),
        "errors_per_s": [max(0.0, n) for n in wave(2, 4, 2)],
        "handshakes_per_s": wave(200, 40),
        "pq_per_s": wave(190, 38),
        "sent_bytes_per_s": wave(2.4e8, 4e7),
        "dropped_per_s": [400.0 if n > 320 else 0.0 for n in steps],
        "p50_s": wave(0.0004, 0.00005),
        "p99_s": [None if 100 < n < 110 else value for n, value in enumerate(wave(0.02, 0.006))],
        "handshake_p95_s": wave(0.06, 0.01),
    }


@contextmanager
def served(documents: Mapping[str, Any]) -> Iterator[int]:
    """Serve the page on a loopback port; *documents*: path -> what it answers at that time. A missing one is a 503."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/":
                self._answer(200, PAGE.encode(), {"Content-Type": "text/html; charset=utf-8", **PAGE_HEADERS})
            elif path in documents:
                self._answer(200, json.dumps(documents[path]).encode(), {"Content-Type": "application/json"})
            else:
                self._answer(503, b"", {})

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
