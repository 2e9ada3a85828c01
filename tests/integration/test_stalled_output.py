"""A reader of a node's output can stall: lines are lost, and no start, restart, upgrade or stop waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.supervised import Supervised, supervised
from tests.support.waiting import poll

pytestmark = pytest.mark.slow


@pytest.fixture(name="output")
def _output() -> Iterator[tuple[int, int]]:
    """A pipe that is full to the last byte."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b".")
    os.set_blocking(writer, True)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def start(node: Supervised, output: int) -> None:
    """Start a supervisor with real workers, which write to the same pipe."""
    (node.directory / "log").touch()
    argv = [sys.executable, "-I", "-m", "supervisor", "--set", json.dumps(node.settings)]
    node.processes.append(subprocess.Popen(argv, env=node.environment, stdout=output, stderr=output))
    node.wait_for_serving()


def ids(node: Supervised) -> set[int]:
    return {worker["worker_id"] for worker in node.status()["workers"]}


def test_node_serves_restarts_and_stops_while_its_output_is_not_read(output: tuple[int, int]) -> None:
    reader, writer = output
    with supervised(start=False, server__telemetry__access_log="json") as node:
        start(node, writer)
        first = ids(node)
        assert node.post("restart")[0] == 200
        status = node.wait_until("the worker is replaced", lambda s: s["rollout"] and s["rollout"]["state"] == "done")
        second = {worker["worker_id"] for worker in status["workers"]}
        assert not first & second
        supervisor_s = node.status()["started_at_s"]
        assert node.post("upgrade")[0] == 200
        node.wait_until(
            "the upgraded supervisor has replaced the worker",
            lambda s: (
                s["started_at_s"] != supervisor_s
                and s["state"] == "serving"
                and [w["state"] for w in s["workers"]] == ["ready"]
                and not {w["worker_id"] for w in s["workers"]} & second
            ),
            40.0,
        )
        # When the pipe is read again, the output continues and reports the lost lines.
        os.set_blocking(reader, False)
        text = b""

        def said() -> bool:
            nonlocal text
            try:
                text += os.read(reader, 65_536)
            except BlockingIOError:
                pass
            return b"log lines were lost" in text

        poll(said, "the line about lost lines")
        node.process.send_signal(signal.SIGTERM)
        assert node.ended() == 0


def test_stop_does_not_wait_for_a_stalled_reader(output: tuple[int, int]) -> None:
    with supervised(start=False) as node:
        start(node, output[1])
        node.process.send_signal(signal.SIGTERM)
        assert node.ended() == 0
        assert not (node.directory / "run" / "state.json").exists()


def test_node_continues_when_its_output_was_never_read() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with supervised(start=False) as node:
        start(node, writer)
        os.close(writer)
        assert node.status()["state"] == "serving"
        node.process.send_signal(signal.SIGTERM)
        assert node.ended() == 0
