"""A session of OpenSSL's QUIC client survives all changes of a node, until its keys are expired explicitly."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_hitless import _state, all_new, another_supervisor, workers
from tests.support import sid
from tests.support.node import ENGINES, running_node
from tests.support.peers import OpensslRun, openssl
from tests.support.waiting import poll

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.mark.parametrize("engine", ENGINES)
def test_session_resumes_across_restarts_and_rotations_until_expiry(engine: str, short_dir: Path) -> None:
    sid.require("test")
    session = short_dir / "session"
    with running_node(engine=engine, workers=2) as node:

        def again() -> OpensslRun:
            run = openssl(f"127.0.0.1:{node.port}", "-sess_in", str(session), ca=node.ca)
            assert run.connected, run.log
            return run

        first = openssl(f"127.0.0.1:{node.port}", ca=node.ca, save_session=session)
        assert first.connected
        assert not first.resumed

        node.admin("POST", "/v1/tickets/rotate", "{}")
        assert again().resumed, "after a rotation"

        before = set(workers(node))
        node.process.kill()
        node.process.wait()
        another_supervisor(node)
        poll(lambda: "serving" in _state(node), "adoption")
        assert set(workers(node)) == before
        assert again().resumed, "after another supervisor took over"

        node.admin("POST", "/v1/restart", "{}")
        assert all_new(node, before)
        assert again().resumed, "by workers that did not live when it was made"

        before = set(workers(node))
        os.kill(node.process.pid, signal.SIGUSR2)
        poll(lambda: all_new(node, before), "workers of the new installation", 90)
        assert again().resumed, "after an upgrade"

        run = node.command("tickets", "expire", "--all", "--spread", "0s", timeout_s=60)
        assert run.returncode == 0, run
        after = again()
        assert not after.resumed
        assert after.verified, "a full handshake, without an error"


@pytest.mark.parametrize("engine", ENGINES)
def test_curl_keeps_its_connection_across_three_rotations(engine: str) -> None:
    """ngtcp2 as a client obeys Retire Prior To: on the portable engine it has new ids after each rotation."""
    sid.require("test")
    # Between two requests curl acknowledges nothing: when it ends, its last response seems to be in flight.
    with running_node("--set", "server.drain.timeout=1s", engine=engine, workers=2) as node:
        url = f"{node.url()}?[1-1000]"
        wanted = ("-sS", "--fail", "--fail-early", "--http3-only", "--cacert", str(node.ca), "--rate", "300/m")
        argv = sid.command("curl", *wanted, "-o", "/dev/null", url)
        curl = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for _ in range(3):
                node.counter("requests", at_least=node.status()["counters"]["requests"] + 3)
                assert node.admin("POST", "/v1/tickets/rotate", "{}")[0] == 200
            node.counter("requests", at_least=node.status()["counters"]["requests"] + 3)
            on = 4 if engine == "portable" else 1

            def held() -> dict[int, int]:
                return {row["epoch"]: row["connections"] for row in node.status()["keys"]["epochs"]}

            poll(lambda: held() == {epoch: int(epoch == on) for epoch in (4, 3, 2, 1)}, f"one connection on epoch {on}")
            # It ends at the first failure.
            assert curl.poll() is None, curl.communicate()
            assert node.status()["counters"]["connections_opened"] == 1
        finally:
            curl.terminate()
            curl.communicate(timeout=20)
