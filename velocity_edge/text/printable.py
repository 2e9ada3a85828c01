"""Makes untrusted text safe to print: one function, used wherever text is written to a terminal, a log or a page.

Untrusted is everything from the network or from file names: server names, paths, user agents, reason phrases of
CONNECTION_CLOSE, fields of responses, names in certificates. In a terminal, an escape sequence can move the cursor,
change the title or answer a prompt; a line break forges a line; a bidirectional override (U+202E) changes the order of
the characters shown; a zero-width character makes two different names look the same.

JSON uses its own escapes, which programs decode exactly (json_text.py). Short because it is one function.
"""

from __future__ import annotations


def printable(text: str, max_chars: int | None = None) -> str:
    """Return *text* on one line, with every character that is not printable as a Python escape: \\x1b, \\u202e.

    Printable is what `str.isprintable` says: letters, marks, numbers, punctuation, symbols and the space. Controls
    (C0, DEL, C1), format characters (bidirectional overrides and isolates, zero-width ones), separators other than the
    space, surrogates, private and unassigned code points are not. Text longer than *max_chars* is truncated, with "..."
    at its end.
    """
    if max_chars is not None and len(text) > max_chars:
        text = text[:max_chars] + "..."
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
