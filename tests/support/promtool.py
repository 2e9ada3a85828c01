"""promtool, Prometheus' own checker: metrics pages, rules, and tests of rules."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def promtool(*arguments: str | Path, page: bytes = b"") -> str:
    """Run it with *page* on standard input; return what it printed. Fails the test when it finds a fault."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool (apt-get install prometheus; make test does it as root)")
    done = subprocess.run([program, *map(str, arguments)], input=page, capture_output=True, timeout=60, check=False)
    text = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, text
    return text
