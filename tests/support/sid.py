"""Commands of the sid root (tools/sid-root): third-party clients and servers of today, on whatever Debian this is.

The root has the host's network and /tmp, so files to exchange belong under /tmp. It is made by `make test`; a test that
finds none is skipped, with the reason.
"""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import IO, Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "sid-root"


@cache
def missing(package_set: str) -> str:
    """Why commands of this package set can't run here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root: the sid root is entered by chroot"
    if subprocess.run([TOOL, "have", package_set], check=False).returncode != 0:
        return f"no sid root with its set {package_set!r}: tools/sid-root ensure {package_set}"
    return ""


def require(package_set: str) -> None:
    """Skip the test when the set isn't there."""
    if reason := missing(package_set):
        pytest.skip(reason)


def command(*argv: str | Path) -> list[str]:
    """Return the command line that runs *argv* in the root. The process keeps its pid through all the execs."""
    return [str(TOOL), "run", *map(str, argv)]


def run(*argv: str | Path, timeout_s: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run to the end; stdout and stderr as text."""
    return subprocess.run(
        command(*argv), capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False, **options
    )


def start(*argv: str | Path, stdout: IO[str] | int | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start and return."""
    return subprocess.Popen(command(*argv), stdout=stdout, text=True, **options)
