"""Invariant: links in documents lead to files, and paths in `backticks` exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
DOCUMENTS = [TREE / "README.md", *sorted((TREE / "docs").rglob("*.md"))]
#: A path of ours: begins with one of the folders at the top.
_PATH = re.compile(r"`((?:velocity_edge|supervisor|workers|bpf|tests|docs|tools|bench|deploy)/[\w./-]*)`")
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TREE)))
def test_links_and_paths_exist(document: Path) -> None:
    text = document.read_text()
    missing = [link for link in _LINK.findall(text) if not (document.parent / link).exists()]
    missing += [name for name in _PATH.findall(text) if not (TREE / name).exists()]
    assert missing == []
