"""Calls and includes between C files go one way, in the order of the list in docs/native-engine.md, and comments name
only files and functions that exist.

The sources are read as text: definitions begin in the first column, because clang-format checks that.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NATIVE = REPOSITORY / "velocity_edge" / "quic" / "native"
PAGE = REPOSITORY / "docs" / "native-engine.md"
FOLDERS = ("velocity_edge/quic/native", "bench/loadgen", "bpf", "tests/support/c")
FILES = sorted(file for folder in FOLDERS for file in (REPOSITORY / folder).glob("*.[ch]"))

_COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)
#: A function or a variable with external linkage, at the beginning of a line.
_FUNCTION = re.compile(
    r"^(?!static\b|typedef\b|extern\b|else\b|return\b)[A-Za-z_][\w \*]*?\b(\w+)\([^;{}]*\) \{$", re.M
)
_VARIABLE = re.compile(
    r"^(?!static\b|typedef\b|extern\b|struct \w+ \{|return\b)(?:const )?\w+ \**(\w+)(?:\[\w*\])*(?: = .*|;)$", re.M
)

_INLINE = re.compile(r"^static inline .*?^\}", re.M | re.DOTALL)


def _code(text: str) -> str:
    """The text without comments and without the content of strings."""
    return _COMMENT_OR_STRING.sub(lambda match: '""' if match[0].startswith('"') else " ", text)


def _includes(text: str) -> set[str]:
    return set(re.findall(r'^#include "([\w.]+)"', text, re.M))


def _defined(text: str) -> set[str]:
    code = _code(text)
    return set(_FUNCTION.findall(code)) | set(_VARIABLE.findall(code))


def _arrows(folder: Path) -> dict[str, set[str]]:
    """For each file of *folder*: the files it includes, and those that define the functions and variables it uses."""
    texts = {file.name: file.read_text() for file in folder.glob("*.[ch]")}
    home = {name: file for file, text in texts.items() if file.endswith(".c") for name in _defined(text)}
    arrows: dict[str, set[str]] = {}
    for file, text in texts.items():
        # Of a header only inline functions use something; the rest of it declares.
        code = _code(text) if file.endswith(".c") else "".join(_INLINE.findall(_code(text)))
        used = {home[word] for word in re.findall(r"\w+", code) if word in home}
        arrows[file] = (used | (_includes(text) & texts.keys())) - {file}
    return arrows


def _listed() -> list[str]:
    block = PAGE.read_text().split("```")[1]
    return [
        file
        for line in block.splitlines()
        if line.startswith("  ")
        for file in re.findall(r"\b\w+\.[ch]\b", re.split(r" {2,}", line.strip())[0])
    ]


def test_the_list_names_each_file_once() -> None:
    listed = _listed()
    assert sorted(listed) == sorted(file.name for file in NATIVE.glob("*.[ch]"))


def test_calls_and_includes_go_down_the_list() -> None:
    place = {file: index for index, file in enumerate(_listed())}
    upward = [
        f"{file} needs {other}, which stands above it"
        for file, others in sorted(_arrows(NATIVE).items())
        for other in sorted(others)
        if place[other] < place[file]
    ]
    assert upward == []


def test_the_scan_sees_the_calls() -> None:
    """A scan that finds nothing would find nothing wrong."""
    arrows = _arrows(NATIVE)
    assert {"demux.c", "life.h", "stream.c"} <= arrows["turns.c"]
    assert {"protection.c", "tls.c", "request.c", "http.c"} <= arrows["callbacks.c"]  # tables of functions count
    assert "protection.c" in arrows["paths.c"]  # and so do variables
    assert sum(len(others) for others in arrows.values()) > 300


@pytest.mark.parametrize("folder", ["bench/loadgen", "bpf"])
def test_no_circle(folder: str) -> None:
    arrows = _arrows(REPOSITORY / folder)
    done: set[str] = set()

    def visit(file: str, path: list[str]) -> None:
        assert file not in path, " -> ".join([*path[path.index(file) :], file])
        if file in done:
            return
        for other in sorted(arrows[file]):
            visit(other, [*path, file])
        done.add(file)

    for file in arrows:
        visit(file, [])


# --- comments ---


def _comments(text: str) -> str:
    return "\n".join(m[0] for m in re.finditer(r"/\*.*?\*/|//[^\n]*", text, re.DOTALL))


_NAMES = {
    path.name
    for folder in ("velocity_edge", "supervisor", "workers", "bpf", "bench", "tests", "tools", "docs")
    for path in (REPOSITORY / folder).rglob("*.*")
}
_WORDS = set(re.findall(r"\w+", "".join(_code(file.read_text()) for file in FILES)))
_PYTHON = [*(REPOSITORY / "velocity_edge").rglob("*.py"), *(REPOSITORY / "bpf").glob("*.py")]
_PYTHON_WORDS = set(re.findall(r"\w+", "".join(file.read_text() for file in _PYTHON)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_comments_name_what_exists(file: Path) -> None:
    comments = _comments(file.read_text())
    missing = []
    for name in re.findall(r"(?<![\w./-])[\w/-]+\.(?:c|h|py|md)\b", comments):
        exists = (REPOSITORY / name).is_file() or (file.parent / name).is_file() if "/" in name else name in _NAMES
        if not exists:
            missing.append(name)
    for name in re.findall(r"\b(?:ve|quic|VE|QUIC)_\w+", comments):
        if name not in _WORDS:
            missing.append(name)
    for name in (*re.findall(r"`(\w+)`", comments), *re.findall(r"\b([a-z_]\w+)\(\)", comments)):
        if name not in _WORDS and name not in _PYTHON_WORDS:
            missing.append(f"{name}()")
    for dotted in re.findall(r"\b(?:velocity_edge|supervisor|workers|bpf)(?:\.\w+)+", comments):
        parts = dotted.split(".")
        modules = [REPOSITORY.joinpath(*parts[:n]) for n in range(len(parts), 0, -1)]
        module = next((m for m in modules if m.is_dir() or m.with_suffix(".py").is_file()), None)
        rest = parts[len(module.relative_to(REPOSITORY).parts) :] if module else parts
        source = module.with_suffix(".py") if module and module.with_suffix(".py").is_file() else None
        if rest and (source is None or rest[0] not in source.read_text()):
            missing.append(dotted)
    assert missing == []
