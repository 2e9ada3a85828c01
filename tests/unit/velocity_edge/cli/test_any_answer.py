"""Invariant: whatever the admin socket answers, a command ends with an error and an exit code, not with a traceback.

No control character of an answer reaches the terminal.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.pretend_admin import sample_status
from velocity_edge.cli import main
from velocity_edge.cli.shape import WrongShape, conform
from velocity_edge.cli.status import screen
from velocity_edge.status.document import NodeStatus


def http(body: bytes | str, status: int = 200) -> bytes:
    content = body if isinstance(body, bytes) else body.encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content


ANSWERS = {
    "nothing": b"",
    "no HTTP": b"hello\n\n",
    "bytes": bytes(range(256)) * 10,
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a huge head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: a\r\n" % i for i in range(300)) + b"\r\n",
    "half a body": b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a"',
    "a bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "204": b"HTTP/1.1 204 No\r\n\r\n",
    "null": http("null"),
    "a list": http("[]"),
    "an empty object": http("{}"),
    "a text": http('"\\u001b[31m"'),
    "a number": http("5"),
    "no number": http("NaN"),
    "deep": http("[" * 100_000),
    "no UTF-8": http(b"\xff\xfe"),
    "wrong types": http(json.dumps(dict.fromkeys(sample_status(), 5) | {"epochs": 5, "exit_code": "x"})),
    "wrong rows": http(json.dumps({**sample_status(), "workers": [5], "epochs": [5], "text": 5})),
    "wrong lines": http('{"exit_code": [1]}\n'),
    "lines of anything": http("5\nnull\n[]\n"),
    "an error without words": http('{"error": 5}', 500),
    "an error with colours": http("<html>\x1b[31m\u202e", 500),
    "a refusal with colours": http(json.dumps({"error": "cannot \x1b[31m"}), 409),
    "a line with colours": http(json.dumps({"text": "\x1b[31mred", "exit_code": 1}) + "\n"),
}
VERBS = [
    "status",
    "status --json",
    "health",
    "health --json",
    "admin stop",
    "admin quiesce",
    "admin drain",
    "admin restart",
    "admin upgrade",
    "admin abort --age 1s",
    "tickets list",
    "tickets rotate",
    "tickets export --plain --out OUT",
]


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Answer every request at *path* with the same bytes."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    end, _ = listening.accept()
                except OSError:
                    return
                with end:
                    try:
                        end.recv(65_536)
                        end.sendall(answer)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("answer", ANSWERS)
def test_any_answer_ends_with_an_error_and_an_exit_code(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VELOCITY_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("velocity_edge.cli.asking._ATTACH_S", 0.0)
    with answering(tmp_path / "admin.sock", ANSWERS[answer]):
        for verb in VERBS:
            with pytest.raises(SystemExit) as ended:
                main(verb.replace("OUT", str(tmp_path / "out")).split())
            out, errors = capsys.readouterr()
            assert ended.value.code in (1, 3, 5), (verb, ended.value.code, out, errors)
            assert not [char for char in out + errors if char != "\n" and not char.isprintable()], (verb, out, errors)
            assert "colours" in answer or answer in ("wrong lines", "wrong rows") or "cannot" in errors, (verb, errors)
            assert not (tmp_path / "out").exists()


def test_a_node_of_an_earlier_version_is_understood() -> None:
    """It has fewer keys and counters; those that it has are shown."""
    early = {name: value for name, value in sample_status().items() if name not in ("rollout", "left", "keys")}
    early["counters"] = {"requests": 5}
    early["packets"] = {}
    found: NodeStatus = conform(early, NodeStatus)
    assert (found["rollout"], found["left"], found["keys"]["epochs"]) == (None, [], [])
    assert found["counters"]["handshakes_completed"] == 0
    assert "serving" in screen(found, 1_000_000.0)


def test_a_node_of_a_later_version_is_understood() -> None:
    late = {**sample_status(), "weather": {"rain": True}}
    assert conform(late, NodeStatus) == {**conform(sample_status(), NodeStatus), "weather": {"rain": True}}


@pytest.mark.parametrize(
    ("value", "shape"),
    [(5, str), ("5", int), (True, int), (None, str), ([], dict[str, int]), ({}, list[str]), ([1], list[str])],
)
def test_a_value_of_another_type_is_refused(value: object, shape: object) -> None:
    with pytest.raises(WrongShape):
        conform(value, shape)
