"""Errors of the YAML parser as sentences that say what to write instead.

YAML gives some characters a special meaning at the beginning of a value, and configurations of web servers often have
them there: `*.example.com` is a reference, `[::]:443` a list, `@` and `%` are not allowed. The parser names a rule of
its grammar; the remedy is nearly always a pair of quotes.
"""

from __future__ import annotations

import re
from typing import Final

from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

#: A value or list entry that begins with a character that has a special meaning.
_SPECIAL: Final = re.compile(r"(?:^|(?<=[\s\[,{]))(?:[*&!@%`][^\s,\]}]*|[|>][^\s|>+-][^\s]*)")
#: An IPv6 address with its port.
_BRACKETS: Final = re.compile(r"\[[0-9a-fA-F:.%]*\]:\d+")
#: Words in the parser's message about such a value.
_ABOUT_SPECIAL: Final = ("alias", "anchor", "cannot start any token", "block scalar", "tag", "directive")
_MAX_SHOWN: Final = 60


def shown(text: str) -> str:
    """Return *text* for use in a message: escaped, and truncated."""
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")


def marked(error: MarkedYAMLError, text: str, name: str) -> str:
    """Return the sentence for an error with a position."""
    mark = error.problem_mark
    why = " ".join(part for part in (error.context, error.problem) if part)
    if mark is None:
        return f"{name}: cannot read this as YAML: {why}"
    lines = text.split("\n")
    line = lines[mark.line] if mark.line < len(lines) else ""
    if found := _unquoted(line, mark.column, why):
        return (
            f"{name}:{mark.line + 1}:{found.start() + 1}: cannot use {found[0]} without quotes: {found[0][0]!r} has a "
            f'meaning of its own in YAML; expected "{found[0]}"'
        )
    place = f"{name}:{mark.line + 1}:{mark.column + 1}"
    if line[mark.column : mark.column + 1] == "\t" or (not line[: mark.column].strip(" ") and "\t" in line[:8]):
        return f"{place}: cannot use a tab: YAML indents with spaces"
    if "mapping values are not allowed" in why:
        return f'{place}: cannot use a colon here: a value with ": " in it needs quotes, and a key its own line'
    return f"{place}: cannot read this as YAML: {why}"


def unmarked(error: YAMLError, text: str, name: str) -> str:
    """Return the sentence for an error without a position: a character that YAML does not allow."""
    if isinstance(error, ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        return f"{name}:{line}:{column}: cannot use the character U+{ord(text[error.position]):04X}: must be plain text"
    return f"{name}: cannot read this as YAML: {' '.join(str(error).split())}"


def _unquoted(line: str, column: int, why: str) -> re.Match[str] | None:
    before = [found for found in _BRACKETS.finditer(line) if found.start() <= column and not _quoted(line, found)]
    if not before and any(word in why for word in _ABOUT_SPECIAL):
        before = [found for found in _SPECIAL.finditer(line) if found.start() <= column and not _quoted(line, found)]
    return before[-1] if before else None


def _quoted(line: str, found: re.Match[str]) -> bool:
    head = line[: found.start()]
    return head.count('"') % 2 == 1 or head.count("'") % 2 == 1 or "#" in head.split()
