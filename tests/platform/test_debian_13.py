"""On Debian 13 with Python 3.13 a new machine builds, passes `make check`, and serves its own curl.

The machine is a root of trixie (tools/debian-root) with make, Python and curl; the commands of the README install
everything else: the environment by pip, the native engine from Debian 13's own ngtcp2 and nghttp3, bcc. The copy
of the tree and its environment are made again each time; Debian packages and pip's cache stay in the root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from ast import literal_eval
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import MARK
from tests.platform.conftest import PROPERTY
from tests.support.debian import DebianRoot
from tests.support.node import ENGINES, running_node
from tests.support.peers import curl

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.interop]

TREE = Path(__file__).parents[2]
trixie = DebianRoot("trixie")
#: Build products, downloads and caches are not part of a clone.
_OURS = shutil.ignore_patterns(".git", ".venv", ".build", "dist", "__pycache__", "*.so", ".*_cache", ".hypothesis")
_NETWORK = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_PIP = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "default-timeout", "retries")
_BARE = {"HOME": "/root", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
#: A bare machine downloads 300 MB, and two cores have other work.
_PATIENCE_S = 900


def pip_environment(listed: str, cert: Path) -> dict[str, str]:
    """Return the settings of this machine's `pip config list` for pip in the root; its certificates are put at *cert*.

    Paths of this machine (file: indexes, links, constraints) do not exist in the root.
    """
    said = {}
    # The environment comes last and overrides, as in pip.
    for line in sorted(listed.splitlines(), key=lambda each: each.startswith(":env:")):
        name, _, value = line.partition("=")
        said[name.rpartition(".")[2]] = str(literal_eval(value))
    if "cert" in said:
        shutil.copy(said["cert"], cert)
    remote = {
        name: " ".join(word for word in said[name].split() if not word.startswith("file:"))
        for name in _PIP
        if name in said
    }
    made = {f"PIP_{name.upper().replace('-', '_')}": value for name, value in remote.items() if value}
    return made | ({"PIP_CERT": str(cert)} if "cert" in said else {})


@dataclass(frozen=True, slots=True)
class Machine:
    #: The copy of the tree; the root and the host see it at the same place.
    tree: Path
    environment: dict[str, str]

    def make(self, word: str) -> str:
        """`make WORD` there; return what it printed."""
        clean = ("env", "-i", *(f"{name}={value}" for name, value in self.environment.items()))
        done = trixie.run(*clean, "make", "-C", self.tree, word, "JOBS=2", timeout_s=_PATIENCE_S)
        assert done.returncode == 0, f"make {word}: {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module", name="built")
def _built() -> Iterator[Machine]:
    trixie.require("platform")
    # Below /tmp, which the root shares: all files of the test are in one place and removed with it.
    directory = Path(tempfile.mkdtemp(prefix="ve-trixie-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        shutil.copytree(TREE, directory / "tree", ignore=_OURS, symlinks=True)
        asked = [shutil.which("python3") or "python3", "-m", "pip", "config", "list"]
        listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        # From this run only its mark and the network settings: not VELOCITY_ALONE, nor variables of pytest and make.
        environment = {name: os.environ[name] for name in (MARK, *_NETWORK) if name in os.environ} | _BARE
        environment |= pip_environment(listed, directory / "certificates.pem")
        machine = Machine(directory / "tree", environment)
        machine.make("build")
        yield machine
    finally:
        shutil.rmtree(directory)


def test_build_succeeds_on_debian_13(built: Machine) -> None:
    """With Python 3.13, and with the native engine from its own libraries."""
    assert (built.tree / ".venv/bin/python3.13").exists()
    assert list((built.tree / "velocity_edge/quic/native").glob("*.cpython-313-*.so"))


def test_fast_tests_pass_on_debian_13(built: Machine, record_property: Callable[[str, object], None]) -> None:
    (line,) = re.findall(r"^(\d+ passed.* in [\d.]+s.*)$", built.make("check"), re.MULTILINE)
    record_property(PROPERTY, f"Debian 13, make check: {line}")


@pytest.mark.parametrize("engine", ENGINES)
def test_node_serves_the_curl_of_debian_13(
    engine: str, built: Machine, record_property: Callable[[str, object], None]
) -> None:
    """Two workers, eBPF on the sockets, compiled there, and the hybrid key exchange."""
    command = ("env", f"VELOCITY_CACHE_DIR={built.tree.parent / 'cache'}", str(built.tree / ".venv/bin/velocity-edge"))
    with running_node(engine=engine, workers=2, within=trixie.command(), program=command) as node:
        status = node.status()
        assert [worker["engine"] for worker in status["workers"]] == [engine] * 2
        assert {Path(f"/proc/{w['pid']}/exe").readlink().name for w in status["workers"]} == {"python3.13"}
        # This curl does not print the group; it offers no other.
        run = curl(node.url(), "--curves", "X25519MLKEM768", ca=node.ca, root=trixie)
        assert (run.answer.status, run.answer.http_version, run.answer.verify_result) == (200, "3", 0), run.log
        assert b"served by velocity-edge" in run.answer.body
        record_property(PROPERTY, f"Debian 13, {engine} engine: two workers, 200 over HTTP/3 with X25519MLKEM768")
