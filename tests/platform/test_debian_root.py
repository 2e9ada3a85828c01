"""A Debian root is made completely or not at all, and an unusable archive is reported: old lists are never used.

tools/debian-root runs with fake commands: apt knows one archive, debootstrap writes an almost empty root, and
what would run in the root is recorded, with the exit code that the test wants. The real ones: test_debian_13.py.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

TOOL = Path(__file__).parents[2] / "tools" / "debian-root"
ARCHIVE = "http://archive.test/debian"
EXPIRED = "E: Release file for it is expired (invalid since 22d). Updates for this repository will not be applied."

COMMANDS = {
    "apt-get": 'echo "Debian|Debian|main|$ARCHIVE"',  # indextargets
    "apt-config": '[ "$1" = shell ] || echo "$APT"',
    "debootstrap": """
        [ -z "$NO_BOOTSTRAP" ] || { echo "E: no network"; exit 1; }
        for each; do new="$old"; old="$each"; done
        mkdir -p "$new/etc/dpkg/dpkg.cfg.d" "$new/etc/apt/apt.conf.d" "$new/etc/apt/sources.list.d" "$new/usr/sbin"
        echo "deb of-debootstrap" >"$new/etc/apt/sources.list.d/debian.sources"
    """,
    # Of the commands for new namespaces debootstrap is run; what bash would run in the root is not.
    "unshare": """
        shift 3
        [ "$1" = bash ] || exec "$@"
        shift 5
        echo "$@" >>"$DONE"
        case "$*" in
            *" update") printf '%s\\n' "$SAID" >&2; exit "$UPDATE" ;;
            *apt-cache*) echo "Package: it" ;;
        esac
    """,
}


@dataclass
class Tool:
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.directory / "cache" / "trixie"

    @property
    def sources(self) -> Path:
        return self.root / "etc" / "apt" / "sources.list"

    def ensure(self, **environment: str) -> tuple[int, str]:
        """`tools/debian-root trixie ensure platform`: its exit code and its output."""
        defaults = {"ARCHIVE": ARCHIVE, "APT": "", "NO_BOOTSTRAP": "", "UPDATE": "0", "SAID": ""}
        paths = {
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
            "VELOCITY_CACHE": str(self.directory / "cache"),
        }
        made = {**os.environ, **defaults, **paths, "DONE": str(self.directory / "done"), **environment}
        argv = [TOOL, "trixie", "ensure", "platform"]
        done = subprocess.run(argv, env=made, capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stderr

    def is_whole(self) -> bool:
        return (self.root / ".have" / "platform").exists()

    def leftovers(self) -> list[Path]:
        return list((self.directory / "cache").glob("*.new.*"))


@pytest.fixture(name="tool")
def _tool(tmp_path: Path) -> Tool:
    (tmp_path / "bin").mkdir()
    for name, text in COMMANDS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return Tool(tmp_path)


def test_root_is_made_once_from_the_systems_archive(tool: Tool) -> None:
    code, said = tool.ensure()
    assert (code, tool.is_whole(), tool.leftovers()) == (0, True, [])
    assert tool.sources.read_text() == f"deb {ARCHIVE} trixie main\n"
    assert not list(tool.sources.parent.glob("sources.list.d/*"))
    assert "debootstrap into" in said
    assert tool.ensure(NO_BOOTSTRAP="1", UPDATE="100") == (0, ""), "nothing to do"


def test_failing_apt_update_is_an_error(tool: Tool) -> None:
    """Also with an existing root: nothing is installed from the lists that debootstrap left."""
    code, said = tool.ensure(UPDATE="100", SAID="E: no route to it")
    assert (code, tool.is_whole()) == (1, False)
    assert "E: no route to it" in said
    assert "cannot install: apt-get update failed" in said
    assert " install " not in (tool.directory / "done").read_text()
    code, said = tool.ensure(UPDATE="100", SAID=EXPIRED)
    assert code == 1
    assert 'Acquire::Check-Valid-Until "false"; in /etc/apt/apt.conf.d would accept it' in said


def test_apt_update_warnings_are_errors(tool: Tool) -> None:
    """Without this option a list that cannot be downloaded is a warning, and apt continues with an old one."""
    tool.ensure()
    assert "-o APT::Update::Error-Mode=any update" in (tool.directory / "done").read_text()


@pytest.mark.parametrize("setting", ['Acquire::Check-Valid-Until "false";', 'Acquire::Check-Date "false";'])
def test_expired_release_is_accepted_where_the_systems_apt_accepts_it(tool: Tool, setting: str) -> None:
    code, said = tool.ensure(APT=setting)
    assert code == 0
    assert (tool.root / "etc/apt/apt.conf.d/80dates").read_text() == f"{setting}\n"
    assert f"accepts a Release file that has expired, as this system's apt does: {setting}" in said


@pytest.mark.parametrize("setting", ['Acquire::Check-Valid-Until "true";', 'Acquire::Retries "3";'])
def test_release_past_its_date_is_refused_otherwise(tool: Tool, setting: str) -> None:
    code, said = tool.ensure(APT=setting)
    assert code == 0
    assert (tool.root / "etc/apt/apt.conf.d/80dates").read_text().strip() == ""
    assert "expired" not in said


def grow_old(tool: Tool) -> None:
    past_s = time.time() - 40 * 86400
    os.utime(tool.sources, (past_s, past_s))


def move(tool: Tool) -> None:
    tool.sources.write_text("deb http://elsewhere.test/debian trixie main\n")


@pytest.mark.parametrize(
    ("change", "reason"), [(grow_old, "it is older than 30 days"), (move, "it is of another archive than apt's")]
)
def test_outdated_root_is_made_again_or_kept_when_that_fails(
    tool: Tool, change: Callable[[Tool], None], reason: str
) -> None:
    tool.ensure()
    (tool.root / "old").touch()
    change(tool)
    code, said = tool.ensure(NO_BOOTSTRAP="1")
    assert (code, tool.is_whole(), (tool.root / "old").exists(), tool.leftovers()) == (0, True, True, [])
    assert f"makes the root again: {reason}" in said
    assert "E: no network" in said
    assert f"although {reason}" in said
    code, said = tool.ensure()
    assert (code, tool.is_whole(), (tool.root / "old").exists()) == (0, True, False)
    assert f"makes the root again: {reason}" in said
    assert tool.ensure(NO_BOOTSTRAP="1") == (0, ""), "it is young again"


def test_root_is_kept_when_apt_knows_no_archive(tool: Tool) -> None:
    tool.ensure()
    (tool.directory / "bin" / "apt-get").write_text("#!/bin/sh\n")
    assert tool.ensure() == (0, "")


def test_unknown_set_is_an_error(tool: Tool) -> None:
    argv = [TOOL, "trixie", "ensure", "nonesuch"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, "cannot use package set 'nonesuch'" in done.stderr) == (1, True)
