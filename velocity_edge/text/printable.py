"""Text that others wrote, made safe to print: one function, used where text leaves for a terminal, a log or a page.

What others wrote is all that came over a network or from a file's name: server names, paths, user agents, reasons of
CONNECTION_CLOSE, fields of answers, names in certificates. In a terminal, an escape sequence in it can move the cursor,
change the title or answer a question; a line break forges a line; a bidirectional override (U+202E) shows the text in
another order than it has; a zero-width character makes two different names look the same.

JSON is for programs, and yet people look at it: it uses its own escapes, which are exact (json_text.py).
"""

from __future__ import annotations


def printable(text: str, max_chars: int | None = None) -> str:
    """Return *text* on one line, with every character that is not printable as an escape of Python's: \\x1b, \\u202e.

    Printable is what `str.isprintable` says: letters, marks, numbers, punctuation, symbols and the space. Controls
    (C0, DEL, C1), format characters (bidirectional overrides and isolates, zero-width ones), separators other than the
    space, surrogates, private and unassigned code points are not. Text longer than *max_chars* is cut; "..." says so.
    """
    if max_chars is not None and len(text) > max_chars:
        text = text[:max_chars] + "..."
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
