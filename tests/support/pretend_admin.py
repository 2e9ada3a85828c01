"""A fake admin socket of a node: it gives the answers that a test sets, and records the requests."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from velocity_edge.status.document import NodeStatus


class PretendAdmin:
    """Answers by target: a dict is JSON, a list is NDJSON, a pair is (status, JSON)."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str, Any]] = []


@contextmanager
def pretend_admin(path: Path) -> Iterator[PretendAdmin]:
    """Listen at *path* while the context lasts."""
    admin = PretendAdmin()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            admin.asked.append((self.command, self.path, body))
            answer = admin.answers.get(self.path, (404, {"error": f"cannot find {self.path}"}))
            if callable(answer):
                answer = answer()
            status, answer = answer if isinstance(answer, tuple) else (200, answer)
            lines = answer if isinstance(answer, list) else [answer]
            self.send_response(status)
            try:
                self.end_headers()
                for line in lines:
                    self.wfile.write(json.dumps(line).encode() + b"\n")
            except BrokenPipeError:
                pass  # the client closed the connection early

        do_GET = do_POST = answer

        def address_string(self) -> str:
            return "test"

        def log_message(self, *_: object) -> None:
            pass

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield admin
        finally:
            server.shutdown()
            thread.join()


def sample_status() -> NodeStatus:
    """Return the status of a node with two workers."""
    return {
        "api_version": 1,
        "state": "serving",
        "state_at_s": 1_000_000.0,
        "reason": "",
        "version": "0.1.0",
        "pid": 100,
        "node_id": 7,
        "started_at_s": 1_000_000.0,
        "runtime_dir": "/run/velocity",
        "dispatch": {
            "tier": "B",
            "mode": "socket-ebpf",
            "missing": "tier C (xdp): no interface is named",
            "adopted": False,
            "interfaces": [],
        },
        "listeners": ["0.0.0.0:4433"],
        "groups": ["X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024", "x25519"],
        "metrics_listen": "127.0.0.1:9300",
        "certificates": [
            {
                "name": "self-signed",
                "fingerprint": "AB:" * 31 + "AB",
                "spki_pin": "x" * 43 + "=",
                "names": ["localhost", "127.0.0.1"],
                "not_after_s": 1_000_000.0 + 90 * 86400,
                "self_signed": True,
            }
        ],
        "workers": [
            {
                "worker_id": i,
                "slot": i,
                "core": i,
                "pid": 200 + i,
                "state": "ready",
                "engine": "portable",
                "version": "0.1.0",
                "engine_reason": "the native engine is not here",
                "connections": 1200 + i,
                "half_open": 3,
                "requests": 45_000,
                "loop_lag_ms": 0.31,
                "rss_bytes": 80 * 2**20,
                "revision": 1,
                "age_s": 4000.0,
            }
            for i in (1, 2)
        ],
        "drain": None,
        "left": [],
        "disabled": False,
        "restarts": 0,
        "adoptions": 0,
        "counters": {
            "handshakes_completed": 1000,
            "handshakes_x25519mlkem768": 900,
            "handshakes_classical": 100,
            "responses_2xx": 5,
            "receive_bytes": 5_000_000,
            "send_bytes": 5_000_000_000,
        },
        "packets": {
            "select": {"known": 500, "pinned": 20, "accepted": 10, "nobody": 0},
            "worker": {"verdict_delivered": 530, "verdict_dropped_malformed": 2},
        },
        "buffers": {"receive_wanted": 1, "receive_got": 1, "send_wanted": 1, "send_got": 1},
        "keys": {
            "seal_with": 3,
            "ages_s": {"3": 100.0, "2": 43300.0},
            "epochs": [
                {
                    "epoch": 3,
                    "age_s": 100.0,
                    "state": "seals",
                    "opens_until_s": None,
                    "ids_live": True,
                    "connections": 1,
                },
                {
                    "epoch": 2,
                    "age_s": 43300.0,
                    "state": "opens",
                    "opens_until_s": 2e9,
                    "ids_live": True,
                    "connections": 2,
                },
            ],
            "storage": "/var/lib/velocity/tickets.json",
            "anew_at_s": None,
            "anew_reason": "",
        },
        "last_reload": None,
        "rollout": None,
        "pressure": [],
        "degraded": [],
    }
