"""Untrusted text has no effect on a terminal beyond its own characters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.text.printable import printable


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("edge.example.com", "edge.example.com"),
        ("bücher.example/日本 ✓", "bücher.example/日本 ✓"),
        ("\x1b[2J\x1b]0;pwned\x07", "\\x1b[2J\\x1b]0;pwned\\x07"),
        ("a\nb\rc\td\x00", "a\\nb\\rc\\td\\x00"),
        ("\x7f\x9b2J\x85", "\\x7f\\x9b2J\\x85"),
        ("txt.\u202egpj\u2066", "txt.\\u202egpj\\u2066"),
        ("a\u200bb\ufeff\u00ad", "a\\u200bb\\ufeff\\xad"),
        ("\u2028\u2029\u3000", "\\u2028\\u2029\\u3000"),
        ("\udcff\ud800", "\\udcff\\ud800"),
        ("\U000e0041\ue000", "\\U000e0041\\ue000"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, printed: str) -> None:
    assert printable(text) == printed


@given(st.text(st.characters(exclude_categories=())))
def test_no_control_character_remains(text: str) -> None:
    result = printable(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in result)
    assert len(result.splitlines()) <= 1
    assert printable(result) == result
    result.encode()  # no surrogate is left


def test_long_text_is_truncated() -> None:
    assert printable("x" * 300, 10) == "x" * 10 + "..."
    assert printable("x" * 10, 10) == "x" * 10
