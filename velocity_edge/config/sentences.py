"""What pydantic finds, said in our words: the key as it stands in the file, and a sentence that begins with "cannot".

Places (file, line, column) are added by load.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel

from velocity_edge.config.model import Config
from velocity_edge.config.tree import Path as KeyPath

_MUST_BE: Final = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a section with keys",
    "model_type": "a section with keys",
    "model_attributes_type": "a section with keys",
}


def sentence(
    loc: tuple[int | str, ...], kind: str, context: Mapping[str, Any], value: Any, values: Any
) -> tuple[KeyPath, str]:
    """Return the key and the sentence for one error of pydantic; *values* is the whole file."""
    path = tuple(_real_steps(loc, values))
    if kind == "extra_forbidden":
        return path, _unknown_key(path)
    if kind == "missing":
        return path, "cannot be left out"
    shown = "this" if isinstance(value, dict | list) else "nothing" if value is None else repr(value)
    if kind == "value_error":
        return path, str(context["error"])
    if kind in _MUST_BE:
        return path, f"cannot use {shown}: must be {_MUST_BE[kind]}"
    if kind == "literal_error":
        return path, f"cannot use {shown}: must be {context['expected']}{_nearest(value, context['expected'])}"
    if kind in {"greater_than_equal", "less_than_equal"}:
        least = kind == "greater_than_equal"
        return path, f"cannot use {shown}: must be {context['ge' if least else 'le']} or {'more' if least else 'less'}"
    if kind == "too_long":
        return path, f"cannot have more than {context['max_length']} entries"
    if kind == "too_short":
        return path, "cannot be empty"
    if kind == "string_pattern_mismatch":
        return path, f"cannot use {shown}: only printable ASCII characters can stand in a header"
    if kind == "string_too_long":
        return path, f"cannot use {shown}: longer than {context['max_length']} characters"
    return path, f"cannot use {shown}: {kind.replace('_', ' ')}"


def _real_steps(loc: tuple[int | str, ...], values: Any) -> Iterator[str]:
    """Yield the steps of *loc* that are keys of the file; pydantic puts names of its own between them."""
    for i, step in enumerate(loc):
        last = i == len(loc) - 1
        if isinstance(values, dict) and (str(step) in values or last) and step != "[key]":
            yield str(step)
            values = values.get(str(step))
        elif isinstance(values, list) and isinstance(step, int):
            yield str(step)
            values = values[step] if step < len(values) else None


def _unknown_key(path: KeyPath) -> str:
    section: type[BaseModel] | None = Config
    for step in path[:-1]:
        if section is not None and not step.isdigit():
            section = _section(section, step)
    keys = [f.alias or name for name, f in section.model_fields.items()] if section else []
    if close := difflib.get_close_matches(path[-1], keys, 1, 0.6):
        return f'cannot understand this key; did you mean "{close[0]}"?'
    return f"cannot understand this key; known here: {', '.join(sorted(keys))}"


def _section(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    for name, info in section.model_fields.items():
        if (info.alias or name) == key:
            return next(
                (t for t in types_in(info.annotation) if isinstance(t, type) and issubclass(t, BaseModel)), None
            )
    return None


def types_in(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of: X, Y of list[X | Y]."""
    if get_origin(annotation) in (list, Union, UnionType):
        for argument in get_args(annotation):
            yield from types_in(argument)
    else:
        yield annotation


def _nearest(value: Any, expected: str) -> str:
    options = [option.strip("' ") for option in expected.replace(" or ", ", ").split(",")]
    close = difflib.get_close_matches(str(value), options, 1, 0.6)
    return f'; did you mean "{close[0]}"?' if close else ""
