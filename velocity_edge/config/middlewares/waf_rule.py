"""One rule of the web application firewall: which part of a request it looks at, for what, and what it does then.

Patterns are those of the Rust regex engine that pydantic brings: no backreferences and no look-around, and every search
takes time proportional to the text (https://docs.rs/regex). What it cannot compile is refused here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_core import SchemaError, SchemaValidator, core_schema

from velocity_edge.config.section import Section
from velocity_edge.config.values import OneOrMore, Written

_FIELD: Final = re.compile(r"path|query|headers|body|method|any|header[: ][!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _field(value: str) -> str:
    if not _FIELD.fullmatch(value):
        raise ValueError(f"cannot use {value!r}: must be path, query, header:NAME, headers, body, method or any")
    return value.replace(" ", ":").lower()


def _pattern(value: str) -> str:
    try:
        searcher(value)
    except SchemaError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next(
            (line[7:] for line in lines if line.startswith("error: ")), lines[-1].removeprefix("SchemaError: ")
        )
        raise ValueError(f"cannot use the pattern {value[:60]!r}: {reason}") from None
    return value


@lru_cache(maxsize=512)
def searcher(pattern: str) -> SchemaValidator:
    """Return an object whose `isinstance_python(text)` tells whether *pattern* is found. Raises `SchemaError`.

    Kept: compiling all built-in rules takes 25 ms, and each route and each reload needs them.
    """
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


class WafMatch(Section):
    """What a rule looks at, and for what."""

    field: Annotated[
        str, AfterValidator(_field), Written("`path`, `query`, `header:NAME`, `headers`, `body`, `method` or `any`")
    ]
    """The part of the request. `headers`: the values of all fields, a line each. `any`: all but the method."""
    pattern: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_pattern)]
    """Regular expression (https://docs.rs/regex/latest/regex/#syntax) that is searched for; `(?i)` ignores case."""
    decode: Annotated[list[Literal["url", "html", "lowercase"]], OneOrMore] = []
    """What is done to the text before, in this order: `url` removes percent-encoding, also if it is there several times
    (and, in a query or body, reads `+` as a space), `html` removes character references."""


class WafRule(Section):
    """One rule."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    """Its name in logs and metrics."""
    match: WafMatch
    action: Literal["block", "log", "score"] = "block"
    """`block` refuses the request, `log` only says so, `score` adds to the request's score."""
    status: Annotated[int, Field(ge=400, le=599)] = 403
    """Status of the refusal."""
    score: Annotated[int, Field(ge=1, le=1000)] = 1
    """What `score` adds."""
