"""Conditions on fields of a request (`match.headers`) as functions of the field's value. Pure.

Short because the bound of regular expressions is in velocity_edge/config/regexes.py.
"""

from __future__ import annotations

from velocity_edge.config.match import HeaderMatch
from velocity_edge.config.regexes import MAX_TEXT_BYTES, bounded
from workers.serve.path_routes import Condition


def condition(name: str, match: HeaderMatch) -> Condition:
    """Return the condition *match* on the field *name* (lower case)."""
    if match.exact is not None:
        exact = match.exact.encode()
        return Condition(name.encode(), lambda value: value == exact)
    if match.regex is not None:
        expression = bounded(match.regex)
        return Condition(
            name.encode(),
            lambda value: (
                value is not None and len(value) <= MAX_TEXT_BYTES and expression.fullmatch(value) is not None
            ),
        )
    present = match.present
    return Condition(name.encode(), lambda value: (value is not None) == present)
