"""Errors of pydantic as sentences for the operator: the key as in the file, and a text that begins with "cannot".

Places (file, line, column) are added by load.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final, get_origin

from pydantic import BaseModel

from velocity_edge.config.model import Config
from velocity_edge.config.section import KeyPath
from velocity_edge.config.unions import keys, said_by, sections_in, tags

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
        return path, _unknown_key(path, values)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        path, kind, value, context = _as_literal(path, context, value)
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
        return path, f"cannot use {shown}: a header may contain only printable ASCII characters"
    if kind == "string_too_long":
        return path, f"cannot use {shown}: longer than {context['max_length']} characters"
    return path, f"cannot use {shown}: {kind.replace('_', ' ')}"


def _real_steps(loc: tuple[int | str, ...], values: Any) -> Iterator[str]:
    """Yield the steps of *loc* that are keys of the file; pydantic adds names of its own."""
    for i, step in enumerate(loc):
        last = i == len(loc) - 1
        if isinstance(values, dict) and step in (values.get("type"), values.get("kind")) and not last:
            continue  # which member of a union
        if isinstance(values, dict) and (str(step) in values or last) and step != "[key]":
            yield str(step)
            values = values.get(str(step))
        elif isinstance(values, list) and isinstance(step, int):
            yield str(step)
            values = values[step] if step < len(values) else None


def _as_literal(path: KeyPath, context: Mapping[str, Any], section: Any) -> tuple[KeyPath, str, Any, Mapping[str, Any]]:
    """Return an error about which member of a union is meant as one about the key that says it (`type`)."""
    key = context["discriminator"].strip("'")
    if "tag" not in context:
        return (*path, key), "missing", None, {}
    options, _, last = context["expected_tags"].rpartition(", ")
    return (*path, key), "literal_error", section[key], {"expected": f"{options} or {last}" if options else last}


def _unknown_key(path: KeyPath, values: Any) -> str:
    """Return the sentence for a key that the section at *path* does not have."""
    section: type[BaseModel] = Config
    members: list[type[BaseModel]] = []
    by, of_mapping = "", False
    for step in path[:-1]:
        if isinstance(values, list) or of_mapping:
            values, of_mapping = values[int(step) if isinstance(values, list) else step], False
        else:
            values = values[step]
            info = next((info for name, info in section.model_fields.items() if (info.alias or name) == step), None)
            members = sections_in(info) if info is not None else []
            if info is None or not members:
                break
            section, by, of_mapping = members[0], said_by(info), get_origin(info.annotation) is dict
        if by and isinstance(values, dict):
            section = next(member for member in members if values[by] in tags(member, by))
    key, known = path[-1], keys(section)
    for other in members if by else ():
        if key in keys(other):
            return f"cannot be used with {by} {values[by]!r}: only with {by} {tags(other, by)[0]!r}"
    if close := difflib.get_close_matches(key, known, 1, 0.6):
        return f'cannot understand this key; did you mean "{close[0]}"?'
    return f"cannot understand this key; known here: {', '.join(sorted(known))}"


def _nearest(value: Any, expected: str) -> str:
    options = [option.strip("' ") for option in expected.replace(" or ", ", ").split(",")]
    close = difflib.get_close_matches(str(value), options, 1, 0.6)
    return f'; did you mean "{close[0]}"?' if close else ""
