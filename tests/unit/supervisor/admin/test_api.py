"""Invariant: every request on the admin socket gets an answer or an error that says what is wrong.

Never a traceback, neither in the answer nor in the log.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.admin import operations
from supervisor.admin.api import Admin
from supervisor.admin.service import Service
from supervisor.machine.admin_socket import AdminSocket
from supervisor.machine.kept import Trouble
from supervisor.machine.keyring import Keyring
from supervisor.node.commands import GiveKeys, Quit, Say, Tell, WriteDisableFile
from supervisor.node.happenings import DisableFileWritten, Exited, Happening, Reported, Started, StopNode, Ticked
from supervisor.node.lifecycle import NodeState
from supervisor.node.node import Node
from tests.unit.supervisor.node.play import Play
from velocity_edge.admin import requests
from velocity_edge.admin.verbs import VERBS
from velocity_edge.config.model import Config
from velocity_edge.errors import CannotDo, VelocityError
from velocity_edge.paths import Places
from velocity_edge.wire import messages as m


class PretendShell:
    """A shell without processes: its workers do what they are told at once."""

    def __init__(self, directory: Path) -> None:
        self.play = Play()
        self.play.node.settings = self.play.node.settings.__class__(1, drain_timeout_s=1.0)
        self.places = Places(directory / "run", directory / "state", directory / "cache")
        for folder in (self.places.runtime, self.places.state):
            folder.mkdir()
        self.active = SimpleNamespace(config=Config(), revision=1, config_json=Config().to_json())
        self.keyring = Keyring.open(self.active.config.tickets, self.places.state, 0.0)
        self.troubles: dict[str, Trouble] = {}
        self.listeners: list[Callable[[str, str], None]] = []
        self.closed = self.stopped_for_good = False
        self.successor: list[str] | None = None
        self.log_levels, self.log_levels_until_s = "", 0.0
        self.channels: dict[int, Any] = {}
        self.on_log_levels = lambda levels: None
        self.loop = SimpleNamespace(call_later=lambda *_: None)
        self.happen(Started())
        for report in (m.Hello(1, 4242, "native", "test"), m.Prepared(1), m.Ready(1)):
            self.happen(Reported(1, report))

    @property
    def node(self) -> Node:
        return self.play.node

    def happen(self, happening: Happening) -> None:
        for command in self.node.handle(happening, self.play.now_s):
            match command:
                case Say(text, level):
                    for listener in self.listeners:
                        listener(level, text)
                case GiveKeys(worker_id, epochs, seal_with):
                    self.happen(Reported(worker_id, m.KeysInUse(list(epochs), seal_with, [])))
                case Tell(worker_id, m.Drain()):
                    self.happen(Reported(worker_id, m.Drained(0)))
                case Tell(worker_id, m.Abort()):
                    self.happen(Reported(worker_id, m.Aborted(0, 0)))
                case Tell(worker_id, m.Stop()):
                    self.happen(Exited(worker_id, 0))
                case WriteDisableFile():
                    self.happen(DisableFileWritten())
                case Quit():
                    self.closed = True

    def clock(self) -> float:
        return self.play.now_s

    wall_clock = steady_clock = clock

    async def wait_for_change(self, timeout_s: float) -> None:
        self.play.now_s += timeout_s
        if not self.closed:
            self.happen(Ticked())
        await asyncio.sleep(0)


@pytest.fixture(name="shell")
def _shell(tmp_path: Path) -> PretendShell:
    return PretendShell(tmp_path)


def api(shell: Any) -> Admin:
    """The API of a node whose reloads and upgrades are refused."""
    chores: Any = SimpleNamespace(reload=refuse, upgrade=refuse)
    return Admin(shell, Service(shell, chores, chores))


def answered(shell: PretendShell, play: Callable[[Path], Coroutine[Any, Any, None]]) -> None:
    """Run *play* against the API."""

    async def run() -> None:
        path = shell.places.runtime / "admin.sock"
        admin = AdminSocket(api(shell).app, path)
        await admin.open()
        try:
            await play(path)
        finally:
            await admin.close()
        assert not path.exists()

    asyncio.run(run())


def refuse() -> Any:
    raise CannotDo("cannot do this: it is a test")


async def raw(path: Path, request: bytes, patience_s: float = 10.0) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), patience_s)
    except (ConnectionError, TimeoutError):
        return b""  # the server waits for the rest, or has closed
    finally:
        writer.close()


async def post(path: Path, verb: str, body: bytes) -> tuple[int, list[Any]]:
    head = f"POST /v1/{verb} HTTP/1.1\r\nHost: n\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = await raw(path, head.encode() + body)
    lines = [line for line in answer.split(b"\n") if line.startswith(b"{")]
    return int(answer.split(b" ", 2)[1]), [json.loads(line) for line in lines]


HEAD = b"POST /v1/reload HTTP/1.1\r\nHost: n\r\n"
RAW = [
    b"",
    b"\n\n",
    b"GET",
    b"\x16\x03\x01" + bytes(200),
    bytes(range(256)),
    b"GET /v1/livez HTTP/9.9\r\n\r\n",
    b"GET /v1/livez HTTP/1.1\r\nHost: n\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET http://[::1/ HTTP/1.1\r\nHost: n\r\n\r\n",
    b"GET /%00%ff%zz HTTP/1.1\r\nHost: n\r\n\r\n",
    b"GET /v1/livez?\xff HTTP/1.1\r\nHost: n\r\n\xff: \xff\r\n\r\n",
    HEAD + b"Content-Length: 100\r\n\r\n{",
    HEAD + b"Content-Length: -5\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    HEAD + b"Content-Encoding: deflate\r\nContent-Length: 3\r\n\r\nabc",
    HEAD + b"Content-Length: 200000\r\n\r\n" + b"a" * 200_000,
    HEAD + b"Expect: nonsense\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: n\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: n\r\n\r\n",
]


def test_invalid_http_is_refused_and_logs_no_traceback(shell: PretendShell, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def play(path: Path) -> None:
        for request in RAW:
            answer = await raw(path, request, 0.3)
            assert not answer or 400 <= int(answer.split(b" ", 2)[1]) < 500, (request[:60], answer[:200])
        assert (await raw(path, b"GET /v1/livez HTTP/1.0\r\n\r\n")).endswith(b"alive\n")

    answered(shell, play)
    assert not [record for record in caplog.records if record.exc_info]


VALUES: list[Any] = [
    None, True, -1, 0, 1.5, 1e308, 10**30, "", "x", "\x1b[31m", "a" * 600, [], {}, [1], {"a": 1}, float("nan"),
]  # fmt: skip
#: Fields of each verb, and one that it does not have.
FIELDS = {
    "quiesce": ["mode", "announce_s", "spread_s", "deadline_s", "below", "timeout_s", "wait"],
    "drain": ["settle_s", "settle_below_per_s", "announce_max_s", "spread_s", "max_wait_s", "attach", "dry_run"],
    "resume": ["x"],
    "restart": ["worker_id", "core", "dry_run"],
    "reload": ["x"],
    "config": ["x"],
    "upgrade": ["x"],
    "abort": ["age_s"],
    "scale": ["workers"],
    "log-level": ["levels", "for_s"],
    "stop": ["fats"],
    "tickets/rotate": ["move", "spread_s", "timeout_s"],
    "tickets/expire": ["older_than_s", "epoch", "all"],
    "tickets/export": ["x"],
    "tickets/import": ["document", "replace", "timeout_s"],
}


def test_every_verb_is_tried() -> None:
    assert set(FIELDS) == {verb.name for verb in VERBS}


@pytest.mark.parametrize("verb", FIELDS)
def test_every_value_in_every_field_is_accepted_or_refused(
    shell: PretendShell, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(path: Path) -> None:
        for field, value in itertools.product([*FIELDS[verb], "reason"], VALUES):
            body = {field: value}
            if verb in ("drain", "restart") and field != "dry_run":
                body["dry_run"] = True
            if verb == "stop":
                body |= {"fats": 1}
            code, lines = await post(path, verb, json.dumps(body).encode())
            assert code in (200, 400, 409), (body, code, lines)
            assert lines, (body, code)
            if code != 200:
                assert "cannot " in lines[-1]["error"]
            await post(path, "resume", b"{}")
        for junk in (b"[1]", b"null", b"{" * 5000, b"\xff", b'{"a":1', b'"x"'):
            code, lines = await post(path, verb, junk)
            assert (code, lines[-1]["error"]) == (400, "cannot understand the body: expected a JSON object")

    answered(shell, play)
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_a_stop_ends_when_the_node_has_stopped_and_later_requests_are_refused(shell: PretendShell) -> None:
    async def play(path: Path) -> None:
        code, lines = await post(path, "stop", b"{}")
        assert code == 200
        assert lines[0] == {"text": "stopping: connections drain first"}
        assert lines[-1] == {"ok": True, "text": "stopped", "exit_code": 0}
        assert shell.node.state is NodeState.STOPPED
        answer = await raw(path, b"GET /v1/status HTTP/1.0\r\n\r\n")
        assert b" 503 " in answer
        assert b"cannot answer: the node has stopped" in answer

    answered(shell, play)


def test_a_stop_reports_what_it_waits_for(shell: PretendShell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> list[str]:
        looks = itertools.count()
        wait = shell.wait_for_change

        async def slowly(timeout_s: float) -> None:
            shell.play.now_s += operations._STILL_HERE_S
            if next(looks) == 2:
                shell.happen(Exited(1, 0))
            await asyncio.sleep(0)

        monkeypatch.setattr(shell, "wait_for_change", slowly)
        monkeypatch.setattr(shell, "happen", lambda happening: stubborn(happening))
        assert wait is not slowly
        chores: Any = SimpleNamespace()
        made = operations.Operations(shell, chores, chores)  # type: ignore[arg-type]
        return [line.text async for line in made.stop(requests.Stop())]

    real = shell.happen

    def stubborn(happening: Happening) -> None:
        """The worker ignores the order to stop, and exits later."""
        if isinstance(happening, StopNode):
            shell.node.handle(happening, shell.play.now_s)
        else:
            real(happening)

    texts = asyncio.run(play())
    assert texts.count("1 worker left, 0 connections") == 2
    assert texts[-1] == "stopped"


def test_a_stop_is_refused_while_an_upgrade_is_under_way(shell: PretendShell) -> None:
    shell.successor = ["python"]

    async def play(path: Path) -> None:
        code, lines = await post(path, "stop", b"{}")
        assert code == 409
        assert "an upgrade is under way" in lines[-1]["error"]

    answered(shell, play)
    assert not shell.stopped_for_good


def test_a_socket_path_that_is_too_long_is_reported(tmp_path: Path) -> None:
    from aiohttp import web

    async def run() -> None:
        await AdminSocket(web.Application(), tmp_path / ("x" * 120) / "admin.sock").open()

    with pytest.raises(VelocityError, match="the path of a socket has at most 107 bytes"):
        asyncio.run(run())


def test_a_socket_that_was_removed_or_replaced_is_made_again(shell: PretendShell) -> None:
    async def run() -> None:
        path = shell.places.runtime / "admin.sock"
        admin = AdminSocket(api(shell).app, path)
        await admin.open()
        for _ in range(3):
            path.unlink()
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(path))
            await admin.keep()
            assert (await raw(path, b"GET /v1/livez HTTP/1.0\r\n\r\n")).endswith(b"alive\n")
            assert path.stat().st_mode & 0o777 == 0o660
        await admin.close()

    asyncio.run(run())


def test_an_audit_log_that_cannot_be_written_is_reported_and_delays_nothing(shell: PretendShell) -> None:
    (shell.places.state / "audit.log").mkdir()

    async def play(path: Path) -> None:
        code, lines = await post(path, "scale", b'{"workers": 1}')
        assert (code, lines[-1]["exit_code"]) == (200, 0)
        assert "audit.log: Is a directory" in shell.troubles["audit"].text
        (shell.places.state / "audit.log").rmdir()
        await post(path, "scale", b'{"workers": 1}')
        assert shell.troubles["audit"].text == ""

    answered(shell, play)
    written = [json.loads(line) for line in (shell.places.state / "audit.log").read_text().splitlines()]
    assert [(line["request"], line["outcome"]) for line in written][-1] == ("/v1/scale", "1 workers")


def test_the_audit_log_contains_no_key(shell: PretendShell) -> None:
    async def play(path: Path) -> None:
        _, lines = await post(path, "tickets/export", b"{}")
        document = lines[-1]["document"]
        code, lines = await post(path, "tickets/import", json.dumps({"document": document}).encode())
        assert (code, lines[-1]["text"]) == (200, "this node has all of them already")

    answered(shell, play)
    assert shell.keyring.table.epochs[0].root.hex() not in (shell.places.state / "audit.log").read_text()
    assert '"document": "(not logged)"' in (shell.places.state / "audit.log").read_text()
