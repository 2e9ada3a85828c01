"""A YAML file as plain values, with the place of each of them.

It parses the file and refuses what is ambiguous: duplicate keys, tags, several documents, recursive references. What
the values mean is decided by the sections (section.py).

The examples of the deployment guide indent three columns per level, also after "- ", which no YAML parser accepts.
Therefore a file that does not parse is parsed once more with its dashes widened (`widen_dashes`); a file that parses is
never changed.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from velocity_edge.config.section import KeyPath, dotted_path
from velocity_edge.config.yaml_errors import marked, shown, unmarked
from velocity_edge.errors import ConfigError

#: References (`*name`) can expand a small file to an arbitrary size.
_MAX_NODES: Final = 200_000
#: A configuration has 6 levels. The parser needs a few frames of Python's stack for each.
_MAX_DEPTH: Final = 50
#: Configurations are sent as JSON, whose integers have 64 bits here.
_MAX_INT: Final = 2**63
#: Decimal without a leading zero (YAML 1.1 and 1.2 read 010 differently), or explicitly hexadecimal or octal.
_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+")
#: Scalars that are read as text: dates, and YAML markers that have no function here.
_TEXTS: Final = frozenset(("str", "timestamp", "merge", "value"))
_DASH: Final = re.compile(r"( *)-( +)([^\s#'\"\[{&*!|>-][^:#]*):(?: +(\S.*))?$")


@dataclass(slots=True)
class Tree:
    """The values of a file, and line and column (both from 1) of each key or list entry."""

    values: dict[str, Any]
    places: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)


def parse(text: str, name: str) -> Tree:
    """Return the values of *text*, or raise `ConfigError` with the position; *name* is the file's name."""
    try:
        root = _compose(text)
    except MarkedYAMLError as error:
        try:
            root = _compose(widen_dashes(text))
        except MarkedYAMLError as other:
            # The attempt that failed later is closer to what the author meant.
            first, second = (e.problem_mark.line if e.problem_mark else 0 for e in (error, other))
            raise ConfigError(marked(error if first >= second else other, text, name)) from None
    except YAMLError as error:
        raise ConfigError(unmarked(error, text, name)) from None
    except RecursionError:
        raise ConfigError(
            f"{name}:{_too_deep(text)}: cannot use this: nested deeper than {_MAX_DEPTH} levels"
        ) from None
    tree = Tree({})
    if root is None:
        return tree
    if not isinstance(root, MappingNode):
        raise ConfigError(f'{name}:1:1: cannot use this file: must begin with a section such as "server:"')
    tree.values = _Walk(name, tree).value(root, ())
    return tree


def widen_dashes(text: str) -> str:
    """Return *text* with spaces added after dashes, so that the first key of a list entry is aligned with its siblings.

    "- a: 1" followed by "   b: 2" becomes "-  a: 1". Line numbers do not change.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines):
        found = _DASH.match(line)
        if found is None:
            continue
        dash, column = len(found[1]), len(found[1]) + 1 + len(found[2])
        inside: list[int] = []
        for following in lines[number + 1 :]:
            if not following.strip() or following.lstrip().startswith("#"):
                continue
            indent = len(following) - len(following.lstrip(" "))
            if indent <= dash:
                break
            inside.append(indent)
        # A first key without a value has its own children before its siblings: the entry is not aligned to those.
        siblings = min(inside, default=0)
        if siblings > column and (found[4] is not None or inside[0] > siblings):
            lines[number] = line[: dash + 1] + " " * (siblings - dash - 1) + line[column:]
    return "\n".join(lines)


def _compose(text: str) -> Node | None:
    with warnings.catch_warnings():
        # YAML allows to define an anchor again (section 3.2.2.2).
        warnings.simplefilter("ignore", ReusedAnchorWarning)
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    return node


def _too_deep(text: str) -> str:
    """Return line and column where *text* is nested too deeply. Events come one by one, without recursion."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            return f"{event.start_mark.line + 1}:{event.start_mark.column + 1}"
    return "1:1"


class _Walk:
    """One walk over the nodes of a file."""

    def __init__(self, name: str, tree: Tree) -> None:
        self._name = name
        self._tree = tree
        self._open: set[int] = set()
        self._seen = 0
        self._scalar = YAML(typ="safe", pure=True).constructor.construct_object

    def value(self, node: Node, path: KeyPath) -> Any:
        self._seen += 1
        if len(self._open) >= _MAX_DEPTH:
            raise self._refuse(node, (), f"cannot use this: nested deeper than {_MAX_DEPTH} levels")
        if id(node) in self._open or self._seen > _MAX_NODES:
            raise self._refuse(node, path, "cannot use a reference that contains itself or grows without end")
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                self._untagged(node, path, "map")
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                self._untagged(node, path, "seq")
                return [self._entry(item, (*path, str(i))) for i, item in enumerate(node.value)]
            return self._plain(node, path)
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise self._refuse(key_node, path, "cannot use a list or a mapping as a key")
            key = self._text(key_node, path)
            if str(key_node.tag).endswith(":int") and not _INT.fullmatch(key):
                raise self._refuse(key_node, path, _ambiguous(key))
            here = (*path, key)
            mark = key_node.start_mark
            if key in values:
                line = self._tree.places[here][0]
                raise self._refuse(key_node, here, f"cannot use the same key twice: it is already in line {line}")
            self._tree.places[here] = (mark.line + 1, mark.column + 1)
            values[key] = self.value(value_node, here)
        return values

    def _entry(self, node: Node, path: KeyPath) -> Any:
        self._tree.places[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        return self.value(node, path)

    def _plain(self, node: Node, path: KeyPath) -> Any:
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        text = self._text(node, path)
        if kind in _TEXTS:
            return text
        if kind == "null" and node.anchor:
            raise self._refuse(node, path, f'cannot use &{node.anchor} without quotes: expected "&{node.anchor}"')
        self._untagged(node, path, "int", "float", "bool", "null")
        if kind == "int" and not _INT.fullmatch(text):
            raise self._refuse(node, path, _ambiguous(text))
        try:
            value = self._scalar(node)
        except (ValueError, LookupError, OverflowError, YAMLError):
            raise self._refuse(node, path, f"cannot use {shown(text)}") from None
        if kind in ("int", "float") and not abs(value) < _MAX_INT:
            raise self._refuse(node, path, f"cannot use {shown(text)}: must be a number of 64 bits")
        return value

    def _untagged(self, node: Node, path: KeyPath, *kinds: str) -> None:
        if str(node.tag).removeprefix("tag:yaml.org,2002:") not in kinds:
            raise self._refuse(node, path, f"cannot use the tag {shown(str(node.tag))}: plain values only")

    def _text(self, node: Node, path: KeyPath) -> str:
        """Return a scalar's text. An escape can produce half of a surrogate pair, which UTF-8 cannot encode."""
        text = str(node.value)
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise self._refuse(node, path, f"cannot use {shown(text)}: half of a surrogate pair")
        return text

    def _refuse(self, node: Node, path: KeyPath, why: str) -> ConfigError:
        mark = node.start_mark
        dotted = f"{dotted_path(path[:_MAX_DEPTH])}: " if path else ""
        return ConfigError(f"{self._name}:{mark.line + 1}:{mark.column + 1}: {dotted}{why}")


def _ambiguous(text: str) -> str:
    digits = text.lstrip("+-").replace("_", "").lstrip("0")
    if not digits.isdecimal():
        return f"cannot use {shown(text)}: must be a whole number"
    octal = f", or 0o{digits} for octal" if text.startswith("0") and set(digits) <= set("01234567") else ""
    return f"cannot use {shown(text)}: YAML 1.1 and 1.2 read it as different numbers: expected {digits}{octal}"
