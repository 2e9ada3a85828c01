"""An upgrade from an earlier commit of this tree, under load, there and back: nothing is lost.

test_upgrade.py changes texts of this tree to have a second version; only an earlier commit has other modules, folders
and classes behind the same files, messages, pins and slabs. It is taken from the history of this clone.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_hitless import Result, more_requests, under_load
from tests.integration.test_upgrade import (
    BIG,
    PATIENCE_S,
    download,
    schemas,
    upgrade,
    upgrade_by_signal,
    versions,
    with_its_shield,
)
from tests.support.installation import PACKAGES, REPOSITORY, Change, Programs
from tests.support.node import require_engine, running_node

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.alone]

#: The last commit before the packages were divided into rooms.
BEFORE_ROOMS = "dd387e4"
#: Both say 0.1.0; the earlier one gets another number, so that the test sees which one serves.
OLDER: Change = ("velocity_edge/__init__.py", '__version__ = "0.1.0"', '__version__ = "0.0.9"')


@pytest.fixture(name="earlier")
def _earlier(tmp_path: Path) -> Path:
    """Return the folder of the earlier tree."""
    archive = subprocess.run(
        ["git", "-C", REPOSITORY, "archive", BEFORE_ROOMS, *PACKAGES], capture_output=True, check=False
    )
    if archive.returncode:
        pytest.skip(f"the history of this clone has no commit {BEFORE_ROOMS}")
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive.stdout, check=True)
    return tmp_path


@pytest.fixture(name="programs")
def _programs(earlier: Path) -> Iterator[Programs]:
    require_engine("native")
    with tempfile.TemporaryDirectory(prefix="ve-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        programs = Programs(Path(directory))
        older = programs.install("older", [OLDER], tree=earlier)
        build = [older / "bin" / "python", "-I", "-m", "velocity_edge.quic.native.build"]
        subprocess.run(build, check=True, capture_output=True, timeout=300)
        programs.install("newer")
        programs.use("older")
        yield programs


def test_upgrade_from_an_earlier_tree_and_back_loses_nothing(programs: Programs) -> None:
    drain = ("--set", "server.drain.timeout=2m")
    program = (programs.command,)
    with with_its_shield() as where, running_node(*drain, workers=2, engine="native", program=program, **where) as node:
        (node.root / "big").write_bytes(BIG)
        pid = node.process.pid
        assert versions(node) == ("0.0.9", {"0.0.9"})

        def play(result: Result) -> None:
            for name, version in (("newer", "0.1.0"), ("older", "0.0.9")):
                programs.use(name)
                fetched = asyncio.run_coroutine_threadsafe(download(node, version), loops[0])
                if name == "newer":
                    code, said = upgrade(node)
                    assert code == 0, said
                    assert f"upgraded to {version}: 2 workers replaced, lost=0" in said
                else:
                    upgrade_by_signal(node, version)
                assert versions(node) == (version, {version})
                assert schemas(node) == {"v1"}
                assert fetched.result(PATIENCE_S) == BIG
                more_requests(result)

        loops: list[asyncio.AbstractEventLoop] = []
        result = under_load(node, play, clients=4, loops=loops)
        assert result.failures == []
        assert result.going_away > 0
        assert node.status()["pid"] == pid
        node.counter("requests", result.requests)
        counters = node.status()["counters"]
        received = counters["datagrams_received"] + counters["datagrams_injected"]
        assert received == sum(n for name, n in counters.items() if name.startswith("verdict_"))
