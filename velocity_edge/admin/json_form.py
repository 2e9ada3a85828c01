"""Requests and answers as JSON objects, decided by the types of the dataclasses' fields. Pure.

A node refuses a request with a field that it does not know: a misspelt one would silently mean its default. A command
line accepts unknown fields in an answer, because the node may be newer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from velocity_edge.admin.answers import Answer, Facts
from velocity_edge.admin.requests import BadRequest, Request

R = TypeVar("R", bound=Request)

#: Numbers are seconds, counts and ids; none comes near this.
_TOO_MUCH: Final = 1e9
_MAX_TEXT: Final = 500
#: How much of a wrong value an error repeats.
_SHOWN: Final = 40


def parse_request(kind: type[R], body: object) -> R:
    """Return the request in the JSON object *body*. Raises `BadRequest`."""
    if not isinstance(body, dict):
        raise BadRequest("cannot understand the body: expected a JSON object")
    hints = _hints(kind)
    for name in body:
        if name not in hints:
            raise BadRequest(
                f"cannot understand the field {str(name)[:_SHOWN]!r}: expected one of {', '.join(sorted(hints))}"
            )
    values: dict[str, Any] = {}
    for each in fields(kind):
        if each.name in body:
            values[each.name] = _value(each.name, hints[each.name], body[each.name])
        elif each.default is MISSING:
            raise BadRequest(f"cannot understand the request: {each.name} is missing, {_expected(hints[each.name])}")
    request = kind(**values)
    request.check()
    return request


def request_body(request: Request) -> dict[str, Any]:
    """Return the JSON object for *request*; what is None or False is left out."""
    values = {each.name: getattr(request, each.name) for each in fields(request)}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def answer_line(answer: Answer) -> dict[str, Any]:
    """Return the JSON object for one line of an answer."""
    line: dict[str, Any] = {"text": answer.text}
    if answer.exit_code is not None:
        line = {"ok": answer.exit_code == 0, **line, "exit_code": answer.exit_code}
    if answer.level is not None:
        line["level"] = answer.level
    if answer.facts is not None:
        line |= {_json_name(each): getattr(answer.facts, each.name) for each in fields(answer.facts)}
    return line


def parse_answer(line: object, kinds: tuple[type[Facts], ...] = ()) -> Answer:
    """Return the answer in one JSON object, with the first of *kinds* whose fields are all there.

    Raises ValueError when the text is not a text, or the exit code not a number.
    """
    if not isinstance(line, dict) or not isinstance(line.get("text", ""), str):
        raise ValueError("a line is not an object with a text")
    code = line.get("exit_code")
    if "exit_code" in line and not _fits(int, code):
        raise ValueError("an exit code is not a number")
    level = line.get("level")
    facts = next((found for kind in kinds if (found := _facts(kind, line)) is not None), None)
    return Answer(
        line.get("text", ""), facts, None if code is None else int(code), level if isinstance(level, str) else None
    )


def _facts(kind: type[Facts], line: Mapping[str, Any]) -> Facts | None:
    hints = _hints(kind)
    names = {_json_name(each): each.name for each in fields(kind)}
    if not all(name in line and _fits(hints[names[name]], line[name]) for name in names):
        return None
    return kind(**{names[name]: line[name] for name in names})


def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _json_name(each: Field[Any]) -> str:
    return str(each.metadata.get("json", each.name))


def _value(name: str, hint: Any, value: Any) -> Any:
    """Return *value* as the type *hint* of a request's field. Raises `BadRequest`."""
    kind = _kind(hint)
    if kind is Any:
        return value
    if not _fits(hint, value) or not _in_bounds(value):
        raise BadRequest(f"cannot understand {name} {repr(value)[:_SHOWN]}: {_expected(hint)}")
    return None if value is None else kind(value)


def _kind(hint: Any) -> Any:
    """Return the type in *hint* that is not None."""
    return next(kind for kind in get_args(hint) or (hint,) if kind is not NoneType)


def _in_bounds(value: Any) -> bool:
    if isinstance(value, int | float):
        return 0 <= value < _TOO_MUCH
    return not isinstance(value, str) or (len(value) <= _MAX_TEXT and value.isprintable())


def _expected(hint: Any) -> str:
    kind = _kind(hint)
    if _is_choice(kind):
        *most, last = (str(each) for each in kind)
        return f"expected {', '.join(most)} or {last}"
    words = {
        bool: "true or false",
        int: "a whole number, 0 or more",
        float: "a number, 0 or more",
        str: f"one line of up to {_MAX_TEXT} characters",
    }
    return f"expected {words[kind]}"


def _is_choice(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, StrEnum)


def _fits(hint: Any, value: Any) -> bool:
    """Return whether *value* (from JSON) has the type *hint*."""
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(each, value) for each in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(get_args(hint)[0], each) for each in value)
    if is_typeddict(hint):
        return isinstance(value, dict)
    if hint is NoneType:
        return value is None
    if _is_choice(hint):
        return isinstance(value, str) and value in {str(each) for each in hint}
    if hint in (int, float):
        # JSON has one kind of number: 5.0 is whole. Python's parser also reads NaN and Infinity.
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
            return False
        return hint is float or value == int(value)
    return bool(isinstance(value, hint))
