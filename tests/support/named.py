"""Names in docstrings, comments and documents, and whether the tree has what they name.

These names are followed:

  * file names, with or without folder: `keys/table.py`, batch.c, tests/bpf/test_abi.py, docs/keys.md;
  * CamelCase words with two capitals or more, in backticks or not: AdmissionControl;
  * in backticks: dotted names (`Node.handle`, `server.limits.max_datagram`), names with an underscore (`use_settings`)
    and capitalised words (`Drain`), also as calls (`admit()`).

A file exists when a path of the tree is that name or ends in it. `Class.member` exists when the class or one of its
bases has the member; `module.name` when the module binds the name, or when it is a path in the configuration. Other
names exist when code uses them, as an identifier or as a word in a string; docstrings and comments do not count.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import io
import os
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.source_tree import ROOT

#: This file and the test that uses it name things that do not exist.
OWN = ("tests/support/named.py", "tests/unit/test_names.py")
#: The changelog names files of earlier versions.
NOT_READ = (*OWN, "CHANGELOG.md")
#: Folders that are built, downloaded or temporary.
_BUILT = {".git", ".venv", ".build", "dist", "__pycache__", ".hypothesis", ".pytest_cache", ".mypy_cache"}
_BUILT |= {".ruff_cache"}
_C_LIKE = (".c", ".h", ".go", ".pml")
_WHOLE = (".service", ".conf", ".toml", ".yml", ".yaml", "")

_FILE = re.compile(r"(?<![\w./<>*{}$-])((?:[\w.-]+/)*[\w-]+\.(?:py|pyi|c|h|md|pml|go|service|mjs))(?![\w*(/{-]|\.\w)")
_TICKED = re.compile(r"`([A-Za-z_][\w.]*)(?:\(\))?`")
_CAMEL = re.compile(r"(?<![\w/.<-])([A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)+)(?![\w-])")
#: Endings of files that a node or its operator makes: not names of the code.
_DATA = (".yaml", ".json", ".sock", ".br", ".zst", ".gz")
_C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


#: Bases from outside that add no members worth naming.
_MEMBERLESS = {"Enum", "IntEnum", "StrEnum", "Generic", "NamedTuple", "Protocol", "Exception", "ValueError", "object"}


@dataclass(frozen=True)
class Prose:
    """One text that a person reads; *line* is where it begins. *names* is false where only file names are followed."""

    path: str
    line: int
    text: str
    names: bool = True


# --- what is read -----------------------------------------------------------------------------------------------------


@cache
def files() -> tuple[str, ...]:
    """All files of the work tree but what is built or downloaded (a copy of the tree has no Git)."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in _BUILT]
        below = Path(folder).relative_to(ROOT)
        found += [str(below / name) for name in names if not name.endswith((".so", ".o", ".pyc"))]
    return tuple(sorted(found))


def prose() -> Iterator[Prose]:
    """Every docstring, comment and document of the tree."""
    for name in files():
        path = ROOT / name
        if name in NOT_READ:
            continue
        if path.suffix == ".py":
            yield from _python_prose(name, path.read_text())
        elif path.suffix == ".md":
            yield Prose(name, 1, path.read_text())
        elif path.suffix in _C_LIKE:
            source = path.read_text()
            for found in _C_COMMENT.finditer(source):
                yield Prose(name, source[: found.start()].count("\n") + 1, found[0])
        elif path.suffix in _WHOLE and not name.startswith(("LICENSE", ".git")):
            yield Prose(name, 1, path.read_text(), names=False)


def _python_prose(name: str, source: str) -> Iterator[Prose]:
    for constant in _docstrings(_parsed(source)):
        yield Prose(name, constant.lineno, str(constant.value))
    for token in _tokens(source):
        if token.type == tokenize.COMMENT:
            yield Prose(name, token.start[0], token.string)


@cache
def _tokens(source: str) -> tuple[tokenize.TokenInfo, ...]:
    return tuple(tokenize.generate_tokens(io.StringIO(source).readline))


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def forget() -> None:
    """Drop what was parsed: it is large, and would slow down every garbage collection of later tests."""
    _tokens.cache_clear()
    _parsed.cache_clear()


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and node.body and isinstance(node.body[0], ast.Expr):
            value = node.body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


# --- what there is ----------------------------------------------------------------------------------------------------


@cache
def words() -> frozenset[str]:
    """Every identifier of the code, and every word of its strings and of the configuration files."""
    found = set(dir(builtins))
    for name in files():
        path = ROOT / name
        if name in NOT_READ or path.suffix == ".md":
            continue
        if path.suffix == ".py":
            found |= _python_words(path.read_text())
        elif path.suffix in _C_LIKE:
            found |= set(re.findall(r"\w+", _C_COMMENT.sub("", path.read_text())))
        elif path.suffix in (".pyi", ".html", ".jsonl", *_WHOLE):
            found |= set(re.findall(r"\w+", path.read_text()))
    return frozenset(found)


def _python_words(source: str) -> set[str]:
    lines = {constant.lineno for constant in _docstrings(_parsed(source))}
    found: set[str] = set()
    for token in _tokens(source):
        is_docstring = token.type == tokenize.STRING and token.start[0] in lines
        if token.type != tokenize.COMMENT and not is_docstring:
            found |= set(re.findall(r"\w+", token.string))
    return found


@cache
def bound() -> tuple[dict[str, set[str]], dict[str, set[str]], dict[str, set[str]]]:
    """What modules (by the last part of their name) bind; what classes (by name) have; and the classes' bases."""
    in_module: dict[str, set[str]] = defaultdict(set)
    in_class: dict[str, set[str]] = defaultdict(set)
    bases: dict[str, set[str]] = defaultdict(set)
    for name in files():
        path = Path(name)
        if path.suffix not in (".py", ".pyi"):
            continue
        tree = _parsed((ROOT / name).read_text())
        stem = path.parent.name if path.stem == "__init__" else path.stem
        in_module[path.parent.name].add(stem)
        in_module[stem] |= _bindings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                in_class[node.name] |= _bindings(node)
                bases[node.name] |= {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp):  # a union: what its members have
                (target, *_), members = node.targets, [one for one in ast.walk(node.value) if isinstance(one, ast.Name)]
                if isinstance(target, ast.Name) and target.id[0].isupper() and not target.id.isupper():
                    in_class[target.id] |= set()
                    bases[target.id] |= {one.id for one in members}
    return in_module, in_class, bases


def _bindings(top: ast.Module | ast.ClassDef) -> set[str]:
    """Names that a module or a class body binds, and what its methods store in `self`."""
    found: set[str] = set()
    todo: list[ast.AST] = list(top.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
            stored = (
                one for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)
            )
            found |= {one.attr for one in stored if ast.unparse(one.value) == "self"}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        else:
            todo.extend(ast.iter_child_nodes(node))
    return found


def _has_member(name: str, member: str) -> bool:
    _, in_class, bases = bound()
    if member in in_class[name]:
        return True
    # The members of a base that is not ours are not known: believed when code uses them.
    return any(
        _has_member(base, member) if base in in_class else base not in _MEMBERLESS and member in words()
        for base in bases[name]
    )


# --- whether it is there ----------------------------------------------------------------------------------------------


def file_exists(name: str, near: str = "") -> bool:
    """Whether *name* is a path of the tree, the end of one, or a path from the folder of the file *near*."""
    if any(one == name or one.endswith(f"/{name}") for one in files()):
        return True
    return (ROOT / near).parent.joinpath(name).exists()


def name_exists(name: str) -> bool:
    """Whether a dotted name, or a single one, is in the code."""
    first, *rest = name.split(".")
    if not rest:  # a member of an enumeration is written in lower case where its value is meant
        return first in words() or (first.islower() and first.upper() in words())
    in_module, in_class, _ = bound()
    if first in in_class:
        return _has_member(first, rest[0])
    if first in in_module and rest[0] in in_module[first]:
        return len(rest) == 1 or rest[0] not in in_class or _has_member(rest[0], rest[1])
    if _importable(name):
        return True
    if _is_config_key(name):
        return True
    if first in in_module or first in sys.stdlib_module_names:
        return False
    return all(part in words() for part in (first, *rest))


def _is_config_key(name: str) -> bool:
    """Whether each part is a field of a class in velocity_edge/config, or the alias of one."""
    return set(name.split(".")) <= _config_fields()


@cache
def _config_fields() -> frozenset[str]:
    found = set()
    for name in files():
        if name.startswith("velocity_edge/config/") and name.endswith(".py"):
            for node in ast.walk(_parsed((ROOT / name).read_text())):
                if isinstance(node, ast.AnnAssign):
                    found.add(ast.unparse(node.target))
                elif isinstance(node, ast.keyword) and node.arg == "alias" and isinstance(node.value, ast.Constant):
                    found.add(str(node.value.value))
    return frozenset(found)


def _importable(name: str) -> bool:
    """Whether a module of the standard library or of a dependency has the name."""
    first, *rest = name.split(".")
    if first in ("velocity_edge", "supervisor", "workers", "bpf"):
        *folders, last = rest
        path = ROOT.joinpath(first, *folders)
        return (path / last).is_dir() or (path / f"{last}.py").exists() or last in bound()[0][path.name]
    try:
        thing: object = importlib.import_module(first)
        for part in rest:
            thing = getattr(thing, part)
    except (ImportError, AttributeError):
        return False
    return True


def missing() -> Iterator[tuple[str, str]]:
    """Each place that names something, and the name, where the tree has no such thing."""
    for one in prose():
        place = f"{one.path}:{one.line}"
        for found in _FILE.finditer(one.text):
            if not file_exists(found[1], one.path):
                yield place, found[1]
        if not one.names:
            continue
        text = _FENCED.sub("", one.text) if one.path.endswith(".md") else one.text
        for found in _TICKED.finditer(text):
            name = found[1].strip(".")
            if _FILE.fullmatch(name) or name.endswith(_DATA):
                continue
            if ("." in name or "_" in name or name[0].isupper()) and not name_exists(name):
                yield place, name
        for found in _CAMEL.finditer(text):
            if found[1] not in words():
                yield place, found[1]
