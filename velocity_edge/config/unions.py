"""What the annotation of a key is made of: its sections, and the key by which the members of a union are told apart.

Errors (sentences.py) and the reference (reference.py) need the model as data: which sections a key can have, and which
of them a file means.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def types_in(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of: X, Y of list[X | Y]; of a mapping those of its values, too."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from types_in(annotation.__origin__)
    elif origin in (list, dict, Union, UnionType):
        for argument in get_args(annotation):
            yield from types_in(argument)
    else:
        yield annotation


def sections_in(info: FieldInfo) -> list[type[BaseModel]]:
    """Return the sections that a key can have, or the entries of its list or mapping."""
    return [t for t in types_in(info.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]


def said_by(info: FieldInfo) -> str:
    """Return the key by which the members of a union are told apart (`type`, `kind`); empty without a union."""
    if isinstance(info.discriminator, str):
        return info.discriminator
    inner = [one for argument in get_args(info.annotation) for one in getattr(argument, "__metadata__", ())]
    return next((one.discriminator for one in inner if isinstance(getattr(one, "discriminator", None), str)), "")


def tags(section: type[BaseModel], key: str) -> list[str]:
    """Return the values of *key* that mean this member of a union."""
    return [str(tag) for tag in get_args(section.model_fields[key].annotation)]


def keys(section: type[BaseModel]) -> list[str]:
    """Return the keys of a section as a file has them."""
    return [info.alias or name for name, info in section.model_fields.items()]
