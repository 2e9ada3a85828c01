"""An upgrade to an installation that differs in everything permitted, and back, loses no connection or request.

A new installation that cannot serve leaves the old one serving, and the reason is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpf import pins
from tests.integration.test_hitless import Result, more_requests, under_load
from tests.support.installation import SECOND, Change, Programs
from tests.support.netns import Network, inside, network
from tests.support.node import Node, require_engine, running_node
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Options, connect

pytestmark = pytest.mark.slow

BIG = bytes(range(256)) * (32 * 4096)  # 32 MiB, read at 256 KiB/s: two minutes, often enough not to be idle
_SIP_BYTES = 64 * 1024
#: A loaded machine imports slowly, and an upgrade imports four times.
PATIENCE_S = 150


@pytest.fixture(name="programs")
def _programs() -> Iterator[Programs]:
    with tempfile.TemporaryDirectory(prefix="ve-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        programs = Programs(Path(directory))
        programs.install("a")
        programs.use("a")
        yield programs


def velocity_edge(programs: Programs) -> tuple[str | Path, ...]:
    return (programs.command,)


def versions(node: Node) -> tuple[str, set[str]]:
    """Return the version of the supervisor, and those of the workers."""
    try:
        status = node.status()
    except (OSError, AssertionError):
        return "", set()
    return status["version"], {worker["version"] for worker in status["workers"]}


def upgrade(node: Node) -> tuple[int, str]:
    """`admin upgrade`: its exit code and its output."""
    done = node.command("admin", "upgrade", "--timeout", f"{PATIENCE_S}s", timeout_s=PATIENCE_S + 60)
    return done.returncode, done.stdout + done.stderr


def upgrade_by_signal(node: Node, version: str) -> None:
    os.kill(node.process.pid, signal.SIGUSR2)
    poll(lambda: versions(node) == (version, {version}), f"everything of version {version}", PATIENCE_S)


async def download(node: Node, version: str) -> bytes:
    """Fetch the large file, slowly until a supervisor of *version* runs."""
    body, sip = bytearray(), 0
    there = asyncio.create_task(
        asyncio.to_thread(poll, lambda: versions(node)[0] == version, f"supervisor {version}", PATIENCE_S)
    )
    async with connect(node.url("/big"), Options(cafile=node.ca, timeout_s=60.0)) as connection:
        async for chunk in await connection.request("GET", "/big"):
            body += chunk
            sip += len(chunk)
            if sip > _SIP_BYTES and not there.done():
                sip = 0
                await asyncio.sleep(0.25)
    assert there.done(), "the upgrade came while the download was under way"
    await there
    return bytes(body)


def schemas(node: Node) -> set[str]:
    instance = pins.Pins(_instance(node)).instance
    return {path.name for path in instance.iterdir()} if instance.exists() else set()


def _instance(node: Node) -> str:
    from velocity_edge.paths import instance_name

    return instance_name(node.directory / "run")


@contextlib.contextmanager
def with_its_shield() -> Iterator[dict[str, Any]]:
    """A namespace for the node to run in with XDP. Options of `running_node`."""
    with network() as wire, inside(wire.client):
        address = Network.server_address[4]
        net = f"--net=/run/netns/{wire.server}"
        # Not `ip netns exec`: that gives the process a /sys of its own, without the pins.
        yield {
            "dispatch": "xdp",
            "within": ["nsenter", net],
            "listen": f"{address}:0",
            "host": address,
        }


@pytest.mark.root
def test_upgrade_there_and_back_under_load_loses_nothing(programs: Programs) -> None:
    require_engine("native")
    programs.install("b", SECOND)
    program = velocity_edge(programs)
    drain = ("--set", "server.drain.timeout=2m")  # a slow machine must not lose the download
    with with_its_shield() as where, running_node(*drain, workers=2, engine="native", program=program, **where) as node:
        (node.root / "big").write_bytes(BIG)
        pid = node.process.pid
        assert versions(node) == ("0.1.0", {"0.1.0"})
        assert schemas(node) == {"v1"}

        def play(result: Result) -> None:
            for name, version, schema in (("b", "0.2.0", "v2"), ("a", "0.1.0", "v1")):
                programs.use(name)
                fetched = asyncio.run_coroutine_threadsafe(download(node, version), loops[0])
                if name == "b":
                    code, said = upgrade(node)
                    assert code == 0, said
                    assert f"upgraded to {version}: 2 workers replaced, lost=0" in said
                else:
                    upgrade_by_signal(node, version)
                assert versions(node) == (version, {version})
                assert schemas(node) == {schema}, "nothing of the other schema is left"
                assert fetched.result(60) == BIG
                more_requests(result)

        loops: list[asyncio.AbstractEventLoop] = []
        result = under_load(node, play, clients=4, loops=loops)
        assert result.failures == []
        assert result.going_away > 0
        status = node.status()
        assert status["pid"] == pid
        assert status["degraded"] == [sentence for sentence in status["degraded"] if "buffers have" in sentence]
        node.counter("requests", result.requests)  # they continue across versions of their slabs
        counters = node.status()["counters"]
        received = counters["datagrams_received"] + counters["datagrams_injected"]
        assert received == sum(n for name, n in counters.items() if name.startswith("verdict_"))
        assert "ignoring its messages of kind Ponder" in node.log, "orders of the later version to workers of this one"
        assert "ignoring its messages of kind Gossip" in node.log, "and reports the other way"


def test_worker_that_dies_after_files_are_replaced_starts_with_the_new_version(programs: Programs) -> None:
    programs.install("b", SECOND)
    with running_node(workers=2, dispatch="socket-classic", program=velocity_edge(programs)) as node:
        programs.use("b")
        victim = node.status()["workers"][0]
        os.kill(victim["pid"], signal.SIGKILL)
        poll(lambda: versions(node) == ("0.1.0", {"0.1.0", "0.2.0"}), "a worker of the new files", PATIENCE_S)

        def ready() -> bool:
            return [w["state"] for w in node.status()["workers"]] == ["ready"] * 2

        poll(ready, "both workers", PATIENCE_S)
        assert any("1 workers run 0.2.0" in sentence for sentence in node.status()["degraded"])
        rows = node.command("status").stdout
        assert " 0.1.0 " in rows
        assert " 0.2.0 " in rows
        assert b'velocity_workers{version="0.2.0"} 1.0' in node.admin("GET", "/v1/metrics")[1]
        result = under_load(node, more_requests)
        assert result.failures == []
        node.counter("requests", result.requests)
        code, said = upgrade(node)
        assert code == 0, said
        assert versions(node) == ("0.2.0", {"0.2.0"})


#: The fault of the new installation -> its changes, and the message to the operator.
REFUSED: dict[str, tuple[list[Change], str]] = {
    "a supervisor with a syntax error": ([("supervisor/node/node.py", None, "\nif\n")], "SyntaxError"),
    "a worker with a syntax error": (
        [("workers/process/worker.py", None, "\nif\n")],
        "cannot start a worker: SyntaxError",
    ),
    "another idea of the configuration": (
        [("velocity_edge/config/server.py", "    workers: Annotated", "    workerz: Annotated")],
        "server.workers: cannot understand this key",
    ),
}
#: They pass every check, and then the workers or the supervisor end.
WORKERS_DIE: Change = (
    "workers/process/worker.py",
    "        prepared = self._candidates.take(",
    "        __import__('os')._exit(3)\n        prepared = self._candidates.take(",
)
SUPERVISOR_DIES: Change = ("supervisor/__main__.py", "    state_file = StateFile(runtime)\n", "    os._exit(4)\n")


def test_unusable_installation_leaves_the_old_one_serving_with_a_reason(programs: Programs) -> None:
    with running_node(workers=1, dispatch="socket-classic", program=velocity_edge(programs)) as node:
        argv = node.process.args
        old = node.status()

        def play(result: Result) -> None:
            for changes, reason in REFUSED.values():
                programs.install("bad", changes)
                code, said = asked_by(programs, node, "bad")
                assert code == 5, said
                assert "cannot upgrade: the new program does not start" in said
                assert reason in said
                now = node.status()
                assert (now["started_at_s"], [w["pid"] for w in now["workers"]]) == (
                    old["started_at_s"],
                    [w["pid"] for w in old["workers"]],
                )
                more_requests(result, 20)

            programs.install("bad", [WORKERS_DIE])
            code, said = asked_by(programs, node, "bad")
            assert code == 1, said
            assert "its workers are not: worker" in said
            assert "exited with 3" in said
            assert [w["pid"] for w in node.status()["workers"]] == [w["pid"] for w in old["workers"]]
            more_requests(result, 20)

            programs.install("bad", [SUPERVISOR_DIES])
            code, said = asked_by(programs, node, "bad")
            assert code == 1, said
            assert "the workers go on serving without one; `velocity-edge serve`" in said
            assert node.process.wait(10) == 4
            more_requests(result, 20)
            # The operator's next step.
            programs.use("a")
            with (node.directory / "log").open("ab") as log:
                node.process = subprocess.Popen(argv, stdout=log, stderr=log, env=node.environment)
            poll(lambda: versions(node) == ("0.1.0", {"0.1.0"}), "the next supervisor", PATIENCE_S)

        result = under_load(node, play, clients=3)
        assert result.failures == []
        poll(lambda: (r := node.status()["rollout"]) and r["state"] == "done", "the rest of the upgrade", PATIENCE_S)


def asked_by(programs: Programs, node: Node, name: str) -> tuple[int, str]:
    """Upgrade to *name*; the command is that of a good installation."""
    programs.use(name)
    good = Node(node.directory, node.root, node.certificate, node.process, node.environment)
    return upgrade(good)
