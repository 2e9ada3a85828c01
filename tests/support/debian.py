"""Commands of another Debian release (tools/debian-root): current clients from sid, and a supported platform.

    sid = DebianRoot("sid"); sid.require("test"); sid.run("curl", ...)

A root has the host's network and /tmp, so shared files belong under /tmp. `make test` makes it; a test that
finds none is skipped, with the reason.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "debian-root"


@dataclass(frozen=True, slots=True)
class DebianRoot:
    suite: str

    @property
    def path(self) -> Path:
        """Its path on the host."""
        return Path(subprocess.check_output([TOOL, self.suite, "path"], text=True).strip())

    def missing(self, package_set: str) -> str:
        """Why commands of this package set cannot run here; empty when they can."""
        return _missing(self.suite, package_set)

    def require(self, package_set: str) -> None:
        """Skip the test when the set is missing."""
        if reason := self.missing(package_set):
            pytest.skip(reason)

    def command(self, *argv: str | Path) -> list[str]:
        """Return the command line that runs *argv* in the root. The process keeps its pid."""
        return [str(TOOL), self.suite, "run", *map(str, argv)]

    def run(self, *argv: str | Path, timeout_s: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run to the end; stdout and stderr as text, separately."""
        return subprocess.run(
            self.command(*argv),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            **options,
        )

    def start(self, *argv: str | Path, stdout: IO[str] | int | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start and return."""
        return subprocess.Popen(self.command(*argv), stdout=stdout, text=True, **options)


@cache
def _missing(suite: str, package_set: str) -> str:
    if os.geteuid() != 0:
        return f"needs root: the {suite} root is entered by chroot"
    if subprocess.run([TOOL, suite, "have", package_set], check=False).returncode != 0:
        return f"no {suite} root with its set {package_set!r}: tools/debian-root {suite} ensure {package_set}"
    return ""
