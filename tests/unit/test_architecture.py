"""Imports follow the arrows of docs/architecture.md: no circle between files or rooms, and decisions reach no hands.

All lists of files are derived from the folders and from the files' docstrings (tests/support/source_tree.py). There are
no exceptions.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.source_tree import (
    PACKAGES,
    ROOT,
    chain,
    circles,
    docstring,
    imports,
    module_graph,
    modules,
    parsed,
    reached,
    room_graph,
    with_derived_parts,
)

#: Standard library modules that reach outside the process or differ from run to run.
HANDS = {"asyncio", "multiprocessing", "os", "random", "secrets", "select", "selectors", "signal", "socket"}
HANDS |= {"subprocess", "threading", "time"}
#: Reading the clock through datetime. Parsing and formatting a date needs no clock.
CLOCK_READS = {"now", "today", "utcnow"}


def is_decision(path: Path) -> bool:
    """A file below supervisor/node, a plan of a drain, or a file whose docstring says that it is pure."""
    if path.is_relative_to("supervisor/node") or path.match("workers/drain/*_plan.py"):
        return True
    return path.name != "__init__.py" and re.search(r"\bpure\b", docstring(path), re.IGNORECASE) is not None


@cache
def hands(path: Path) -> set[str]:
    """The hands that a file uses itself, imports for type checkers left out."""
    used = {name for name in imports(path, types=False) if name.partition(".")[0] in HANDS}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            if function == "open":
                used.add("open()")
            elif function.rpartition(".")[2] in CLOCK_READS and "date" in function:
                used.add(f"{function}()")
    return used


DECISIONS = sorted(name for name, path in modules().items() if is_decision(path))


@pytest.mark.parametrize("path", modules().values(), ids=str)
def test_a_package_imports_only_the_packages_below_it(path: Path) -> None:
    for name in imports(path):
        package = name.partition(".")[0]
        if package in PACKAGES:
            assert package in PACKAGES[path.parts[0]], f"{path.parts[0]} must not import {name}"


def test_files_do_not_import_each_other_in_a_circle() -> None:
    assert not circles(module_graph()), (
        "move what both need to a third file; an import inside a function or for type checkers counts"
    )


def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    assert not circles(room_graph()), "move the file to the room that needs it, or what both need to a room below"


def test_the_list_of_decisions_is_derived_from_the_folders() -> None:
    assert {"supervisor.node.node", "workers.drain.drain_plan", "workers.serve.router"} <= set(DECISIONS)
    assert len(DECISIONS) > 30
    assert "supervisor.shell" not in DECISIONS


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_uses_no_hand(name: str) -> None:
    assert not hands(modules()[name]), "let the caller pass the time, the random bytes or the file's content"


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_imports_no_module_with_hands(name: str) -> None:
    """Directly or through other modules. Modules that hold data or compute, in any room, may be imported."""
    graph = module_graph(types=False)
    with_hands = {other for other in reached(graph, name) - {name} if hands(modules()[other])}
    assert not [" -> ".join(chain(graph, name, other)) for other in sorted(with_hands)]


def test_the_tables_and_drawings_of_the_architecture_are_those_of_the_tree() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert page == with_derived_parts(page), "python -m tests.support.source_tree --write"


def test_every_file_opens_with_what_it_is_for() -> None:
    silent = [str(path) for path in modules().values() if not docstring(path)]
    assert not silent
