"""ExaBGP's healthcheck works as in docs/operations.md: no route while the disable file exists, then one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.supervised import supervised
from tests.support.waiting import poll

pytestmark = [pytest.mark.interop, pytest.mark.slow]

#: Debian's, with the system's own Python.
PYTHON = Path("/usr/bin/python3")


@pytest.fixture(name="said")
def _said(tmp_path: Path) -> Path:
    if subprocess.run([PYTHON, "-c", "import exabgp"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no exabgp: apt-get install exabgp")
    return tmp_path / "said"


def test_drain_withdraws_the_route_and_resume_announces_it(said: Path) -> None:
    with supervised() as node:
        # A check that never fails: only the file counts.
        argv = [
            PYTHON,
            "-m",
            "exabgp",
            "healthcheck",
            "--cmd",
            "true",
            "--disable",
            node.directory / "run" / "disabled",
        ]
        argv += ["--interval", "0.2", "--fast-interval", "0.1", "--rise", "1", "--fall", "3", "--withdraw-on-down"]
        argv += ["--ip", "192.0.2.1/32", "--no-ip-setup", "--no-ack", "--no-syslog"]
        with said.open("w") as output:
            exabgp = subprocess.Popen(argv, stdout=output, stderr=sys.stderr, stdin=subprocess.DEVNULL)
        try:

            def last(word: str) -> bool:
                lines = [line for line in said.read_text().splitlines() if "192.0.2.1/32" in line]
                return bool(lines) and lines[-1].startswith(word)

            poll(lambda: last("announce"), "the route")
            assert node.post("drain", settle_s=0, spread_s=0)[1][-1]["ok"]
            poll(lambda: last("withdraw"), "no route")
            node.post("resume")
            poll(lambda: last("announce"), "the route again")
        finally:
            exabgp.kill()
            exabgp.wait()
