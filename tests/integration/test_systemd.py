"""Under a real systemd, whichever process dies: docs/systemd-service.md is correct, and clients lose nothing.

One service manager (private_systemd.py) and one service for all tests here; each begins with a node that serves.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.packets import long
from tests.support.service import DEPLOY, UNIT, Service, service, unit_text
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Options, connect
from velocity_edge.errors import VelocityError

pytestmark = [pytest.mark.root, pytest.mark.slow]

#: Short, so that a test need not wait; stops that hang are ended after this.
WATCHDOG = "WatchdogSec=5\nTimeoutStopSec=20\n"
#: An unknown version: each datagram is answered separately (RFC 9000, section 6), and no client retransmits it.
UNKNOWN_VERSION = 0x1A2A3A4A


@pytest.fixture(scope="module")
def installed() -> Iterator[Service]:
    with service(drop_in=WATCHDOG) as made:
        yield made
        made.systemd.ctl("stop", UNIT, check=False)


@pytest.fixture
def node(installed: Service) -> Iterator[Service]:
    installed.write_config()
    if installed.show("ActiveState")["ActiveState"] != "active":
        installed.systemd.ctl("start", UNIT, timeout_s=90)
    installed.wait_for("a node that serves")
    yield installed
    print(installed.log[-6000:])  # shown when a test fails


class Asking:
    """A client that sends one request after the other on one connection."""

    def __init__(self, node: Service) -> None:
        self._node = node
        self.requests = 0
        self.failure = ""
        self.going_away = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        try:
            async with connect(self._node.url(), Options(cafile=self._node.certificate.chain, timeout_s=30)) as it:
                while not self._stop.is_set() and not it.going_away:
                    response = await it.request("GET", "/")
                    body = b"".join([chunk async for chunk in response])
                    assert (response.status, body) == (200, b"served by velocity-edge")
                    self.requests += 1
                    await asyncio.sleep(0.02)
                self.going_away = it.going_away
        except VelocityError as error:
            self.failure = str(error)

    def more(self, count: int = 20) -> None:
        now = self.requests
        poll(lambda: self.failure or self.requests >= now + count, f"{count} more requests", 30)
        assert not self.failure

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def asking(node: Service) -> Iterator[Asking]:
    made = Asking(node)
    made._thread.start()
    try:
        made.more(5)
        yield made
    finally:
        made.finish()


def ask_once(node: Service, timeout_s: float = 30) -> None:
    async def once() -> None:
        async with connect(node.url(), Options(cafile=node.certificate.chain, timeout_s=timeout_s)) as connection:
            response = await connection.request("GET", "/")
            assert b"".join([chunk async for chunk in response]) == b"served by velocity-edge"

    asyncio.run(once())


def test_start_returns_when_the_node_serves(node: Service) -> None:
    main, workers = node.main_pid(), node.workers()
    assert node.show("ActiveState", "StatusText", "NFileDescriptorStore") == {
        "ActiveState": "active",
        "StatusText": "serving · socket-ebpf · 2 of 2 workers · 0 connections",
        "NFileDescriptorStore": "16",  # 4 slots with a socket, two ends of a link and a slab each
    }
    scores = {pid: int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (main, *workers)}
    # To lower a score needs CAP_SYS_RESOURCE, which a virtual machine's root may lack.
    assert scores[main] == (-500 if may_lower_scores() else 0)
    assert [scores[pid] for pid in workers] == [scores[main] + 300] * 2, "workers are chosen first"
    ask_once(node)


def may_lower_scores() -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(re.search(r"CapEff:\s*(\w+)", status)[1], 16) >> 24 & 1)  # type: ignore[index]


def test_reload_reports_its_result(node: Service) -> None:
    main, workers = node.main_pid(), node.workers()
    with asking(node) as client:
        node.write_config(log_level="warning")
        node.systemd.ctl("reload", UNIT)
        node.write_config(log_level="loud")
        refused = node.systemd.ctl("reload", UNIT, check=False)
        assert refused.returncode != 0
        assert "the last reload was refused" in node.show("StatusText")["StatusText"]
        assert re.search(r"serve\.yaml:1:\d+: server\.log_level: cannot", node.log)
        # Not the previous one: the watch on the file may have read it again.
        stays = int(re.findall(r"revision (\d+) stays", node.log)[-1])
        assert [w["revision"] for w in node.wait_for("the old one")["workers"]] == [stays, stays]
        client.more()
    assert (node.main_pid(), node.workers()) == (main, workers)


def test_killed_supervisor_is_restarted_without_loss(node: Service) -> None:
    main, workers = node.main_pid(), node.workers()
    with asking(node) as client:
        node.kill(main)
        client.more()
        node.wait_for("another supervisor", but_not=main)
        client.more()
        assert not client.going_away
    assert node.workers() == workers
    poll(lambda: "adopted 2 workers" in node.show("StatusText")["StatusText"], "the status text")


def test_watchdog_replaces_only_a_hung_supervisor(node: Service) -> None:
    main, workers = node.main_pid(), node.workers()
    with asking(node) as client:
        node.kill(main, signal.SIGSTOP)
        client.more()
        node.wait_for("another supervisor", but_not=main)
        client.more()
    assert node.workers() == workers
    assert "Fatal Python error: Aborted" in node.log, "it said where it hung"


def test_upgrade_keeps_the_main_process_of_the_service(node: Service) -> None:
    before = node.show("MainPID", "NRestarts", "ExecMainStartTimestampMonotonic")
    workers = node.workers()
    with asking(node) as client:
        assert node.admin("POST", "/v1/upgrade", "{}")[0] == 200
        poll(lambda: len(node.workers()) == 2 and not node.workers() & workers, "workers of the new one", 60)
        poll(lambda: client.failure or client.going_away, "a GOAWAY", 60)
        assert not client.failure
    node.wait_for("a node that serves")
    assert node.show(*before) == before
    assert node.show("ActiveState", "NFileDescriptorStore") == {"ActiveState": "active", "NFileDescriptorStore": "16"}


def test_waiting_packets_are_served_and_clients_are_reset_when_all_processes_are_killed(node: Service) -> None:
    main = node.main_pid()
    old = {main, *node.workers()}
    with asking(node) as client:
        node.systemd.ctl("kill", "--signal=KILL", "--kill-whom=all", UNIT)
        poll(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old), "the end of all", every_s=0.001)
        killed_s = time.monotonic()
        waiting = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(20)]
        for sock in waiting:
            sock.connect(("127.0.0.1", node.port))
            sock.send(long(0, os.urandom(8), version=UNKNOWN_VERSION))
        status = node.wait_for("another node", but_not=main)
        for sock in waiting:
            sock.settimeout(10)
            assert sock.recv(2000)[1:5] == bytes(4), "Version Negotiation"
            sock.close()
        poll(lambda: client.failure, "a stateless reset", 10)
        assert time.monotonic() - killed_s < 25, "well before its idle time-out"
    assert status["dispatch"]["adopted"], "pinned tables went on"
    assert "took over the sockets that the service manager kept" in node.show("StatusText")["StatusText"]
    assert "workers died with an earlier supervisor" in node.log
    # Counted within a second.
    poll(lambda: (now := node.status()) and now["counters"]["verdict_reset"], "a reset that was counted", 10)
    ask_once(node)


def test_quiesced_node_restarts_quiesced(node: Service) -> None:
    terms = '{"reason": "CHG-7", "spread_s": 0, "settle_s": 0}'
    assert node.admin("POST", "/v1/drain", terms)[0] == 200
    disabled = node.runtime / "disabled"
    assert disabled.exists()
    main, restarted_s = node.main_pid(), time.time()
    node.systemd.ctl("restart", UNIT, timeout_s=90)
    status = node.wait_for("a node that is quiesced", "quiesced", but_not=main)
    assert (status["reason"], node.admin("GET", "/v1/readyz")[0]) == ("CHG-7", 503)
    poll(disabled.exists, "the disable file", 5)
    assert status["state_at_s"] < restarted_s, "since an operator said so"
    assert "`velocity-edge admin resume` accepts them again" in node.log.rpartition("velocity-edge 0")[2], "the banner"
    with pytest.raises(VelocityError):
        ask_once(node, timeout_s=1)
    assert node.admin("POST", "/v1/resume", "{}")[0] == 200
    poll(lambda: not disabled.exists(), "the end of the disable file", 5)
    ask_once(node)


def test_clients_that_connect_during_a_restart_wait(node: Service) -> None:
    main = node.main_pid()
    restart = threading.Thread(target=lambda: node.systemd.ctl("restart", UNIT, timeout_s=90))
    restart.start()
    poll(lambda: not Path(f"/proc/{main}").exists(), "the end of the first one", 30, every_s=0.001)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", node.port))
        sock.settimeout(60)
        sock.send(long(0, os.urandom(8), version=UNKNOWN_VERSION))
        assert sock.recv(2000)[1:5] == bytes(4), "not 'connection refused'"
    restart.join()
    node.wait_for("another node", but_not=main)
    main, workers = node.main_pid(), node.workers()
    node.kill(main)
    node.wait_for("another supervisor", but_not=main)
    assert node.workers() == workers, "the mark of the stop that was meant is gone"


def test_stop_leaves_no_process_or_pin(node: Service) -> None:
    node.systemd.ctl("stop", UNIT)
    assert_nothing_is_left(node)


def test_admin_stop_is_not_restarted(node: Service) -> None:
    restarts = node.show("NRestarts")
    assert node.admin("POST", "/v1/stop", '{"fast": true}')[0] == 200
    poll(lambda: node.show("ActiveState")["ActiveState"] == "inactive", "the end of the service", 30)
    assert node.show("NRestarts") == restarts
    assert_nothing_is_left(node)


def test_stop_of_a_hung_supervisor_leaves_no_process_or_pin(node: Service) -> None:
    node.systemd.install(f"{UNIT}.d/20-soon.conf", "[Service]\nTimeoutStopSec=6\n")
    main = node.main_pid()
    over = threading.Event()

    def hang() -> None:
        while not over.wait(0.001):  # systemd sends SIGCONT with SIGTERM
            try:
                os.kill(main, signal.SIGSTOP)
            except ProcessLookupError:
                return

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        node.systemd.ctl("stop", UNIT, check=False)
    finally:
        over.set()
        thread.join()
    assert node.show("Result")["Result"] == "timeout"
    assert_nothing_is_left(node)
    node.systemd.install(f"{UNIT}.d/20-soon.conf", "")


def assert_nothing_is_left(node: Service) -> None:
    poll(lambda: node.systemd.processes(UNIT) == {}, "the end of all processes", 10)
    assert not node.pins.exists()
    assert not node.runtime.exists()
    assert node.show("NFileDescriptorStore") == {"NFileDescriptorStore": "0"}


def test_bad_configuration_is_not_restarted(installed: Service) -> None:
    installed.systemd.ctl("stop", UNIT, check=False)
    installed.config.write_text("{}}")
    assert installed.systemd.ctl("start", UNIT, check=False).returncode != 0
    assert installed.show("ActiveState", "ExecMainStatus", "NRestarts") == {
        "ActiveState": "failed",
        "ExecMainStatus": "78",
        "NRestarts": "0",
    }
    installed.systemd.ctl("reset-failed", UNIT)


def test_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    path = tmp_path / UNIT
    path.write_text(unit_text(tmp_path / "serve.yaml", Path("/usr/bin/true")))  # a program that exists
    found = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    scored = analyze("security", "--offline=yes", "--no-pager", str(path))
    match = re.search(r"Overall exposure level for velocity.service: ([\d.]+)", scored)
    assert match, scored
    # Reasons for the score, of 10: root with the rights of an XDP node, the network, bpf(2).
    assert float(match[1]) <= 3.5


def analyze(*arguments: str) -> str:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(
    ("tool", "file", "made"),
    [
        ("systemd-sysusers", "sysusers.d/velocity.conf", "Creating user 'velocity'"),
        ("systemd-tmpfiles", "tmpfiles.d/velocity.conf", "/etc/velocity/certs"),
    ],
)
def test_snippets_are_valid(tool: str, file: str, made: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    arguments = ["--create"] if tool == "systemd-tmpfiles" else []
    done = subprocess.run(
        [tool, *arguments, f"--root={root}", DEPLOY / file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert made in done.stderr + " ".join(map(str, root.rglob("*")))
