"""Invariant: links in documents lead to files, paths in `backticks` and quoted sections exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import named

TREE = Path(__file__).parents[2]
DOCUMENTS = [TREE / "README.md", TREE / "CONTRIBUTING.md", *sorted((TREE / "docs").rglob("*.md"))]
#: A path of ours begins with one of the folders at the top; CONTRIBUTING.md marks files that a change adds.
_PATH = re.compile(r"`((?:velocity_edge|supervisor|workers|bpf|tests|docs|tools|bench|deploy)/[\w./-]*)`(?! \(new\))")
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")


@pytest.fixture(scope="module", autouse=True)
def _parsed_files() -> Iterator[None]:
    yield
    named.forget()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TREE)))
def test_links_and_paths_exist(document: Path) -> None:
    text = document.read_text()
    missing = [link for link in _LINK.findall(text) if not (document.parent / link).exists()]
    missing += [name for name in _PATH.findall(text) if not (TREE / name).exists()]
    assert missing == []


def test_quoted_sections_exist() -> None:
    """`docs/keys.md, "Backup"` in a docstring or comment leads to a heading of that page."""
    missing = []
    for one in named.prose():
        for page, title in re.findall(r'(docs/[\w/-]+\.md),\s+(?:[#*]\s*)?"([^"]+)"', one.text):
            headings = re.findall(r"^#+ (.*)$", (TREE / page).read_text(), re.MULTILINE)
            if " ".join(title.split()) not in headings:
                missing.append(f'{one.path}: {page}, "{title}"')
    assert missing == []
