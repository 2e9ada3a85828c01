"""The configuration as JSON Schema (draft 2020-12), for editors that complete and check YAML.

It is generated from the same sections as docs/configuration.md, with their docstrings. It accepts what the file
accepts: durations and sizes as text or number, one value in place of a list, a server of a proxy as its URL. Rules
about several keys (`problems` of a section) are not in it; `config lint` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from velocity_edge.config import edge
from velocity_edge.config.model import Config

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DURATION: Final[JsonSchemaValue] = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$"},
    ]
}
_SIZE: Final[JsonSchemaValue] = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": "^[0-9]+ ?([kKmMgG]i?)?[bB]?$"},
    ]
}
_TEXT: Final[JsonSchemaValue] = {"type": "string"}
#: A status, a range of them ("200-299") or a class ("2xx").
_RANGE: Final[JsonSchemaValue] = {"anyOf": [{"type": "integer"}, _TEXT]}


def _or_text(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [schema, _TEXT]}


def _or_one(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [schema, schema["items"]]} if "items" in schema else schema


def _or_texts(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [{**schema, "items": _or_text(schema["items"])}, _TEXT]} if "items" in schema else schema


def _or_condition(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [schema, _TEXT, {"type": "boolean"}]}


#: Name of a validator that sees a value before its type is checked -> what it accepts (values.py, match.py ...).
_BEFORE: Final[Mapping[str, Callable[[JsonSchemaValue], JsonSchemaValue]]] = {
    "parse_duration": lambda _: _DURATION,
    "parse_size": lambda _: _SIZE,
    "_address": lambda _: _TEXT,
    "_network": lambda _: _TEXT,
    "_path": lambda _: _TEXT,
    "_list_of_one": _or_one,
    "_one_or_more": _or_one,
    "_section_of": _or_text,
    "_otlp_section_of": _or_text,
    "_status_ranges": lambda schema: {"anyOf": [_or_one({**schema, "items": _RANGE}), _RANGE]},
    "_servers": _or_texts,
    "_condition": _or_condition,
}


class _Generate(GenerateJsonSchema):
    """Generates what the file accepts, before validators have converted it."""

    schema_dialect = _DIALECT

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """Return the schema of a value that a validator converts."""
        name = getattr(schema["function"]["function"], "__name__", "")
        accepted = _BEFORE.get(name)
        if accepted is None:
            raise ValueError(f"cannot describe what {name} accepts: add it to _BEFORE")
        return accepted(self.generate_inner(schema["schema"]))


def schema_of_file() -> dict[str, Any]:
    """Return the schema of a configuration file."""
    found = _generated()
    found["title"] = "velocity-edge configuration"
    return {"$schema": _DIALECT, **found}


def schema_of_edge_file() -> dict[str, Any]:
    """Return the schema of an edge configuration (edge.py)."""
    found = _generated()
    content = found["$defs"]["Content"]
    keys = {key: content["properties"][key] for key in edge.KEYS}
    return {
        "$schema": _DIALECT,
        "title": "velocity-edge edge configuration",
        "type": "object",
        "additionalProperties": False,
        "properties": keys,
        "$defs": found["$defs"],
    }


def _generated() -> dict[str, Any]:
    schema: dict[str, Any] = Config.model_json_schema(by_alias=True, schema_generator=_Generate, mode="validation")
    for section in (schema, *schema["$defs"].values()):
        for described in (section, *section.get("properties", {}).values()):
            described.pop("title", None)
            if "description" in described:
                described["description"] = " ".join(described["description"].split())
    return schema
