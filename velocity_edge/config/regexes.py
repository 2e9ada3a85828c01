"""Regular expressions of a configuration whose cost is bounded, as strangers choose what they are applied to. Pure.

Python's `re` goes back and tries again; an expression such as `(a+)+b` takes time that doubles with each character.
Here an expression is refused unless its cost is at most quadratic in the text: no repetition and no alternatives inside
of a repetition, no references and look-arounds, and a bounded product of all choices. The text is bounded, too
(`MAX_TEXT_BYTES`): a longer one does not match.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from velocity_edge.config.values import Written

#: A quadratic cost of this is about a millisecond.
MAX_TEXT_BYTES: Final = 512
_MAX_PATTERN: Final = 256
#: Product of the choices of all repetitions and alternatives: two repetitions of any length.
_MAX_CHOICES: Final = (MAX_TEXT_BYTES + 1) ** 2
_REPEATS: Final = frozenset((codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT))
_SIMPLE: Final = frozenset((codes.LITERAL, codes.NOT_LITERAL, codes.ANY, codes.IN, codes.AT))


def bounded(pattern: str) -> re.Pattern[bytes]:
    """Return the compiled expression, for `fullmatch` of at most `MAX_TEXT_BYTES`. Raises `ValueError`."""
    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"cannot use this expression: longer than {_MAX_PATTERN} characters")
    try:
        raw = pattern.encode("ascii")
        tree = parser.parse(raw)
        compiled = re.compile(raw)
    except UnicodeEncodeError:
        raise ValueError(f"cannot use {pattern!r}: must be ASCII") from None
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"cannot use {pattern!r}: {error}") from None
    choices = 1
    for operation, argument, repeated in _operations(tree, repeated=False):
        if operation in _REPEATS:
            if repeated:
                raise ValueError(f"cannot use {pattern!r}: a repetition inside of a repetition can take very long")
            least, most, _ = argument
            choices *= min(int(most), MAX_TEXT_BYTES) - min(int(least), MAX_TEXT_BYTES) + 1
        elif operation is codes.BRANCH:
            if repeated:
                raise ValueError(f"cannot use {pattern!r}: alternatives inside of a repetition can take very long")
            choices *= len(argument[1])
        elif operation not in _SIMPLE and operation not in (codes.SUBPATTERN, codes.ATOMIC_GROUP):
            raise ValueError(f"cannot use {pattern!r}: references and look-arounds are not allowed")
        if choices > _MAX_CHOICES:
            raise ValueError(f"cannot use {pattern!r}: so many repetitions and alternatives can take very long")
    return compiled


def _operations(tree: Any, *, repeated: bool) -> Iterator[tuple[Any, Any, bool]]:
    """Yield each operation of a parsed expression, its argument, and whether it is inside of a repetition."""
    for operation, argument in tree:
        yield operation, argument, repeated
        yield from _below(operation, argument, repeated or operation in _REPEATS)


def _below(operation: Any, argument: Any, inside: bool) -> Iterator[tuple[Any, Any, bool]]:
    if operation in _REPEATS:
        yield from _operations(argument[2], repeated=inside)
    elif operation is codes.SUBPATTERN:
        yield from _operations(argument[3], repeated=inside)
    elif operation is codes.BRANCH:
        for alternative in argument[1]:
            yield from _operations(alternative, repeated=inside)
    elif operation is codes.ATOMIC_GROUP:
        yield from _operations(argument, repeated=inside)


def _expression(value: str) -> str:
    bounded(value)
    return value


#: `bounded` compiles it.
Expression = Annotated[str, AfterValidator(_expression), Written("regular expression")]
