"""What the body of a request may say: numbers, texts, yes or no. Anything else is `Nonsense`, and nothing happens."""

from __future__ import annotations

from typing import Any

Line = dict[str, Any]


class Nonsense(Exception):
    """A request that means nothing: the text names the field and what would be right."""


def only(body: Line, *names: str) -> None:
    """Refuse fields that this request does not have: a misspelt one would silently mean its default."""
    for name in body.keys() - {*names, "reason"}:
        raise Nonsense(f"{str(name)[:40]!r}: one of {', '.join(sorted(names)) or 'reason'} would be right")


def number(body: Line, name: str, default: float | None) -> float:
    """Return a number that is not negative. Without *default* it must be there."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise Nonsense(f"{name} {value!r}: a number, 0 or more, would be right")
    return float(value)


def whole(body: Line, name: str) -> int:
    """Return a whole number that is not negative; it must be there."""
    value = number(body, name, None)
    if value != int(value):
        raise Nonsense(f"{name} {value!r}: a whole number would be right")
    return int(value)


def text(body: Line, name: str) -> str:
    """Return a text of one line; empty when it is not there."""
    value = body.get(name, "")
    if not isinstance(value, str) or len(value) > 500 or not value.isprintable():
        raise Nonsense(f"{name}: one line of up to 500 characters would be right")
    return value


def flag(body: Line, name: str) -> bool:
    """Return true or false; false when it is not there."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise Nonsense(f"{name} {value!r}: true or false would be right")
    return value


def done(words: str, exit_code: int) -> Line:
    """Return the last line of an operation."""
    return {"ok": exit_code == 0, "text": words, "exit_code": exit_code}
