"""A YAML file as plain values, with the place of each of them.

It decides what a file says and refuses what is ambiguous: duplicate keys, tags, several documents, references that
contain themselves. What the values mean is decided in model.py.

Surprise: the examples of the deployment guide indent three columns per level, also behind "- ", which no YAML parser
accepts. So a file that does not parse is tried once more with its dashes widened (`widen_dashes`); one that does parse
is never touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from velocity_edge.errors import ConfigError

#: Where a value stands: keys and list positions from the top, all as text.
Path = tuple[str, ...]

#: References (`*name`) can make a small file enormous; no configuration is.
_MAX_NODES: Final = 200_000
_DASH: Final = re.compile(r"( *)-( +)([^\s#'\"\[{&*!|>-][^:#]*):(?: +(\S.*))?$")


@dataclass(slots=True)
class Tree:
    """The values of a file, and line and column (both from 1) of each key or list entry."""

    values: dict[str, Any]
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)


def parse(text: str, name: str) -> Tree:
    """Return what *text* says, or raise `ConfigError` with the place; *name* is the file's name in the message."""
    try:
        root = _compose(text)
    except MarkedYAMLError as error:
        try:
            text = widen_dashes(text)
            root = _compose(text)
        except MarkedYAMLError as other:
            # The reading that came further is what the author meant.
            first, second = (e.problem_mark.line if e.problem_mark else 0 for e in (error, other))
            raise ConfigError(_sentence(error if first >= second else other, name)) from None
    except YAMLError as error:
        raise ConfigError(f"{name}: cannot read this as YAML: {error}") from None
    tree = Tree({})
    if root is None:
        return tree
    if not isinstance(root, MappingNode):
        raise ConfigError(f'{name}:1:1: cannot use this file: must begin with a section such as "server:"')
    tree.values = _Walk(name, tree).value(root, ())
    return tree


def widen_dashes(text: str) -> str:
    """Return *text* with spaces put behind dashes, so that the first key of a list entry stands above its siblings.

    "- a: 1" followed by "   b: 2" becomes "-  a: 1". Line numbers stay as they are.
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
        # A first key without a value has children of its own in front of its siblings: they are not what we align to.
        siblings = min(inside, default=0)
        if siblings > column and (found[4] is not None or inside[0] > siblings):
            lines[number] = line[: dash + 1] + " " * (siblings - dash - 1) + line[column:]
    return "\n".join(lines)


def _compose(text: str) -> Node | None:
    node: Node | None = YAML(typ="safe", pure=True).compose(text)
    return node


def _sentence(error: MarkedYAMLError, name: str) -> str:
    mark = error.problem_mark
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    why = " ".join(part for part in (error.context, error.problem) if part)
    return f"{place}: cannot read this as YAML: {why}"


class _Walk:
    """One walk over the nodes of a file."""

    def __init__(self, name: str, tree: Tree) -> None:
        self._name = name
        self._tree = tree
        self._open: set[int] = set()
        self._seen = 0
        self._scalar = YAML(typ="safe", pure=True).constructor.construct_object

    def value(self, node: Node, path: Path) -> Any:
        self._seen += 1
        if id(node) in self._open or self._seen > _MAX_NODES:
            raise self._refuse(node, path, "cannot use a reference that contains itself or grows without end")
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return [self._entry(item, (*path, str(i))) for i, item in enumerate(node.value)]
            return self._plain(node, path)
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise self._refuse(key_node, path, "cannot use a list or a mapping as a key")
            key = str(key_node.value)
            here = (*path, key)
            mark = key_node.start_mark
            if key in values:
                line = self._tree.places[here][0]
                raise self._refuse(key_node, here, f"cannot use the same key twice: it is already in line {line}")
            self._tree.places[here] = (mark.line + 1, mark.column + 1)
            values[key] = self.value(value_node, here)
        return values

    def _entry(self, node: Node, path: Path) -> Any:
        self._tree.places[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        return self.value(node, path)

    def _plain(self, node: Node, path: Path) -> Any:
        kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if kind == node.tag:
            raise self._refuse(node, path, f"cannot use the tag {node.tag!r}: plain values only")
        if kind not in {"int", "float", "bool", "null"}:
            return str(node.value)
        try:
            return self._scalar(node)
        except (ValueError, YAMLError):
            raise self._refuse(node, path, f"cannot use {node.value!r}") from None

    def _refuse(self, node: Node, path: Path, why: str) -> ConfigError:
        mark = node.start_mark
        dotted = f"{dotted_path(path)}: " if path else ""
        return ConfigError(f"{self._name}:{mark.line + 1}:{mark.column + 1}: {dotted}{why}")


def dotted_path(path: Path) -> str:
    """Return ("content", "sites", "0", "root") as "content.sites[0].root"."""
    text = ""
    for step in path:
        text += f"[{step}]" if step.isdigit() and text else f".{step}" if text else step
    return text
