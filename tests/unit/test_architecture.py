"""Imports follow the arrows of docs/architecture.md, and decisions import no hands."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MAY_IMPORT = {
    "velocity_edge": {"velocity_edge"},
    "bpf": {"bpf"},
    "supervisor": {"supervisor", "velocity_edge", "bpf"},
    "workers": {"workers", "velocity_edge"},
}
FILES = [p for package in MAY_IMPORT for p in sorted((ROOT / package).rglob("*.py"))]

#: Files that decide. They have no clock, no socket, no dice, no process.
DECISIONS = [
    *(
        "supervisor/node/node.py",
        "supervisor/node/requests.py",
        "supervisor/node/lifecycle.py",
        "supervisor/node/rollout.py",
    ),
    *(
        "supervisor/node/backoff.py",
        "supervisor/node/routes.py",
        "supervisor/node/agreement.py",
        "supervisor/node/worker.py",
    ),
    *(
        "supervisor/node/happenings.py",
        "supervisor/node/commands.py",
        "velocity_edge/quic/demux.py",
        "workers/serve/router.py",
    ),
]
HANDS = {"asyncio", "datetime", "multiprocessing", "os", "random", "secrets", "select", "signal", "socket"}
HANDS |= {"subprocess", "threading", "time"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which package is meant"
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    ours = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        package = name.partition(".")[0]
        if package in MAY_IMPORT:
            assert package in MAY_IMPORT[ours], f"{ours} must not import {name}"


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_have_no_hands(name: str) -> None:
    used = {module.partition(".")[0] for module in imports(ROOT / name)}
    assert not used & HANDS


def test_every_file_says_what_it_is_for() -> None:
    silent = [
        str(p.relative_to(ROOT)) for p in FILES if (text := p.read_text()) and not ast.get_docstring(ast.parse(text))
    ]
    assert not silent


def test_no_file_is_a_hall() -> None:
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 450}
    assert not long, "split into rooms"
