"""The source tree as the architecture tests see it: modules, rooms, the imports between them, and their circles.

A module is named as Python imports it. A room is a folder below one of the four packages (`supervisor/node`); a file
beside the rooms (`supervisor/shell.py`) is a room of its own. Everything is read from the source text.

    python -m tests.support.source_tree                      print the circles that exist
    python -m tests.support.source_tree supervisor/node ...  print each file with the first sentence of its docstring
    python -m tests.support.source_tree --write              write tables and drawings into docs/architecture.md
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Each package, and the packages that it may import.
PACKAGES = {
    "velocity_edge": {"velocity_edge"},
    "bpf": {"bpf"},
    "supervisor": {"supervisor", "velocity_edge", "bpf"},
    "workers": {"workers", "velocity_edge"},
}
Graph = Mapping[str, set[str]]


@cache
def modules() -> dict[str, Path]:
    """Every module of the four packages, with its path below the root."""
    paths = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@lru_cache(maxsize=1)
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file; *path* is below the root. Trees are not kept: they slow down garbage collection."""
    return ast.parse((ROOT / path).read_text())


@cache
def docstring(path: Path) -> str:
    """The text that a file opens with, or an empty one."""
    return ast.get_docstring(parsed(path)) or ""


def type_only(tree: ast.Module) -> set[ast.AST]:
    """The statements below `if TYPE_CHECKING:`."""
    blocks = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


@cache
def imports(path: Path, *, types: bool = True) -> tuple[str, ...]:
    """The names that a file imports, at its top, inside functions and (*types*) for type checkers alone."""
    tree = parsed(path)
    found: list[str] = []
    left_out = set() if types else type_only(tree)
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which package is meant"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                found.append(whole if whole in modules() else module)
    return tuple(found)


@cache
def module_graph(*, types: bool = True) -> dict[str, set[str]]:
    """Each module, and the modules of the tree that it imports."""
    known = modules()
    return {name: {one for one in imports(path, types=types) if one in known} - {name} for name, path in known.items()}


def room(module: str) -> str:
    """The room of a module: its folder below the package, or the module itself where it lies beside the rooms."""
    path = modules()[module]
    if len(path.parts) >= 3:
        return ".".join(path.parts[:2])
    return path.parts[0] if path.name == "__init__.py" else module


@cache
def room_graph() -> dict[str, set[str]]:
    """Each room, and the rooms that its files import."""
    graph: dict[str, set[str]] = {room(module): set() for module in modules()}
    for module, used in module_graph().items():
        graph[room(module)] |= {room(one) for one in used} - {room(module)}
    return graph


def reached(graph: Graph, start: str) -> set[str]:
    """Everything that can be reached from *start*, without *start* unless a circle leads back to it."""
    found: set[str] = set()
    todo = list(graph.get(start, ()))
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(graph.get(name, ()))
    return found


def circles(graph: Graph) -> set[frozenset[str]]:
    """The sets of names that reach one another (strongly connected components with two members or more)."""
    beyond = {name: reached(graph, name) for name in graph}
    return {
        frozenset({name} | {other for other in beyond[name] if name in beyond.get(other, ())})
        for name in graph
        if name in beyond[name]
    }


def needed(graph: Graph) -> dict[str, set[str]]:
    """*graph* without the arrows that others imply (transitive reduction of a graph without circles)."""
    return {
        name: {one for one in used if not any(one in reached(graph, other) for other in used - {one})}
        for name, used in graph.items()
    }


def chain(graph: Graph, start: str, end: str) -> list[str]:
    """One shortest way from *start* to *end*, for an error message."""
    came_from = {start: ""}
    todo = [start]
    for name in todo:
        for one in sorted(graph.get(name, ())):
            if one not in came_from:
                came_from[one] = name
                todo.append(one)
    way = [end]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]


def summary(path: Path) -> str:
    """The first sentence of a file's docstring."""
    paragraph = " ".join(docstring(path).partition("\n\n")[0].split())
    return re.split(r"\.\s(?=[A-Z`])", paragraph, maxsplit=1)[0].rstrip(".").replace("|", "\\|")


def files_of(folder: str) -> list[str]:
    """One line for each Python file below *folder*: its name and the first sentence of its docstring."""
    paths = [path for path in modules().values() if path.is_relative_to(folder) and path.name != "__init__.py"]
    width = max((len(str(path)) for path in paths), default=0)
    return [f"{path!s:{width}}  {summary(path)}" for path in paths]


def table(package: str) -> str:
    """The rooms of *package* and the files beside them, with the first sentence of each, as Markdown."""
    rooms = [path for path in modules().values() if path.name == "__init__.py" and len(path.parts) >= 3]
    beside = [path for path in modules().values() if path.name != "__init__.py" and len(path.parts) == 2]
    lines = ["| | |", "| --- | --- |"]
    for path in (*sorted(rooms), *sorted(beside)):
        if path.parts[0] == package:
            name = f"{path.parent}/" if path.name == "__init__.py" else str(path)
            lines.append(f"| `{name}` | {summary(path)} |")
    return "\n".join(lines)


def draw(package: str) -> str:
    """The rooms of *package* and the arrows between them, as mermaid; arrows that others imply are left out."""
    graph = {name: used for name, used in room_graph().items() if name.startswith(f"{package}.")}
    inside = {name: {one for one in used if one in graph} for name, used in graph.items()}
    return "\n".join(["```mermaid", "flowchart TD", *_lines(needed(inside), package), "```"])


def _lines(graph: Graph, package: str) -> Iterable[str]:
    short = {name: name.removeprefix(f"{package}.") for name in graph}
    for name in sorted(graph):
        yield from (f"    {short[name]} --> {short[one]}" for one in sorted(graph[name]))
        if not graph[name] and not any(name in used for used in graph.values()):
            yield f"    {short[name]}"


def with_derived_parts(page: str) -> str:
    """The text of docs/architecture.md with its tables and drawings as they follow from the tree."""
    for package in PACKAGES:
        for kind, text in (("rooms", table(package)), ("arrows", draw(package))):
            before, begin, rest = page.partition(f"<!-- {kind} of {package} -->\n")
            assert begin, f"docs/architecture.md has no place for the {kind} of {package}"
            _, end, after = rest.partition("<!-- end -->")
            page = f"{before}{begin}{text}\n{end}{after}"
    return page


def main(arguments: list[str]) -> None:
    """Carry out the command line of the docstring above."""
    page = ROOT / "docs/architecture.md"
    if arguments == ["--write"]:
        page.write_text(with_derived_parts(page.read_text()))
    elif arguments:
        print(*(line for folder in arguments for line in files_of(folder.rstrip("/"))), sep="\n")
    else:
        for title, graph in (("files", module_graph()), ("rooms", room_graph())):
            for members in circles(graph):
                print(f"circle of {title}:", ", ".join(sorted(members)))


if __name__ == "__main__":
    main(sys.argv[1:])
