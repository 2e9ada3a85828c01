"""Checks an answer of a node against the types of velocity_edge/status/document.py, before a command reads it.

A node of an earlier version sends fewer keys: they are added with empty values (0, "", no entries). A later version
sends more keys, which are kept. A value of a wrong type is an error.
"""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict


class WrongShape(ValueError):
    """A value has another type than declared; the text says where."""


class _Counts(dict[str, Any]):
    """Counters of a node: one that its version does not have is 0."""

    def __init__(self, found: dict[str, Any], shape: Any) -> None:
        super().__init__(found)
        self._shape = shape

    def __missing__(self, key: str) -> Any:
        return _nothing(self._shape)


def conform(value: Any, shape: Any, where: str = "the answer") -> Any:
    """Return *value* with the keys of *shape* (a type of document.py) that it lacks. Raises `WrongShape`."""
    if shape is Any:
        return value
    if is_typeddict(shape):
        if not isinstance(value, dict):
            raise WrongShape(f"{where} is not an object")
        hints = get_type_hints(shape, include_extras=True)
        filled = {name: _nothing(hint) for name, hint in hints.items() if get_origin(hint) is not NotRequired}
        known = {name: conform(value[name], hints[name], name) for name in value if name in hints}
        return {**value, **filled, **known}
    origin, arguments = get_origin(shape), get_args(shape)
    if origin in (NotRequired, Required):
        return conform(value, arguments[0], where)
    if origin is list:
        if not isinstance(value, list):
            raise WrongShape(f"{where} is not a list")
        return [conform(item, arguments[0], where) for item in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise WrongShape(f"{where} is not an object")
        return _Counts({key: conform(item, arguments[1], where) for key, item in value.items()}, arguments[1])
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return conform(value, next(argument for argument in arguments if argument is not NoneType), where)
    right = isinstance(value, int | float) if shape is float else isinstance(value, shape)
    if not right or (isinstance(value, bool) and shape is not bool):
        raise WrongShape(f"{where} is {type(value).__name__}, not {shape.__name__}")
    return value


def _nothing(shape: Any) -> Any:
    """Return the empty value of a type."""
    origin, arguments = get_origin(shape), get_args(shape)
    if is_typeddict(shape):
        return conform({}, shape)
    if origin in (Union, UnionType) and NoneType in arguments:
        return None
    if origin in (NotRequired, Required, Union, UnionType):
        return _nothing(arguments[0])
    if origin is dict:
        return _Counts({}, arguments[1])
    return None if shape is Any else (origin or shape)()
