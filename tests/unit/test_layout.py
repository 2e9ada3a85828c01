"""tests/unit mirrors the four packages, and a file is neither long nor short without a reason in its docstring.

A Python file has 40 to 250 lines; one with more says "Long because ..." in its docstring, one with fewer says
"Short because ...". `__init__.py` and `__main__.py` may have any size. A C file with more than 250 lines says it in its
first comment.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.source_tree import PACKAGES, ROOT, docstring, modules

SHORTEST, LONGEST = 40, 250
C_SOURCES = sorted(
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*")
    if path.suffix in (".c", ".h")
)

#: Rooms whose tests are not in tests/unit, and where they are.
TESTED_ELSEWHERE = {
    "bpf": "tests/bpf: every program runs in the kernel, every table is compared with its Python twin",
    "supervisor/steering": "tests/netns, tests/bpf and tests/property/test_steering_table.py: needs sockets",
    "velocity_edge": "tests/integration/test_runtime_folder.py: paths and files as a node leaves them",
    "velocity_edge/quic/native": "tests/conformance and tests/native: C behind the engine seam",
}


def rooms() -> list[Path]:
    """Every folder of the four packages that has code in it."""
    return sorted({path.parent for path in modules().values() if path.name not in ("__init__.py", "__main__.py")})


def lines(path: Path) -> int:
    return len((ROOT / path).read_text().splitlines())


def test_every_folder_of_unit_tests_is_a_folder_of_the_tree() -> None:
    unit = ROOT / "tests/unit"
    folders = [path.parent.relative_to(unit) for path in unit.rglob("*.py")]
    assert not sorted({str(folder) for folder in folders if not (ROOT / folder).is_dir()})


@pytest.mark.parametrize("room", rooms(), ids=str)
def test_every_room_has_unit_tests_or_a_reason(room: Path) -> None:
    reason = TESTED_ELSEWHERE.get(str(room), "")
    has_tests = any((ROOT / "tests/unit" / room).glob("test_*.py"))
    assert has_tests != bool(reason), "add tests, or say in TESTED_ELSEWHERE where they are; not both"
    for named in re.findall(r"tests/[\w./]*\w", reason):
        assert (ROOT / named).exists(), named


@pytest.mark.parametrize("path", modules().values(), ids=str)
def test_a_python_file_has_its_size_or_a_reason(path: Path) -> None:
    if path.name in ("__init__.py", "__main__.py"):
        return
    says, size = docstring(path), lines(path)
    assert ("Long because" in says) == (size > LONGEST), f"{size} lines"
    assert ("Short because" in says) == (size < SHORTEST), f"{size} lines"


@pytest.mark.parametrize("path", C_SOURCES, ids=str)
def test_a_c_file_has_its_size_or_a_reason(path: Path) -> None:
    head = (ROOT / path).read_text().partition("*/")[0]
    assert ("Long because" in head) == (lines(path) > LONGEST), f"{lines(path)} lines"
