"""Jinja2 with bounds: a template ends, whatever a request puts into it.

Templates are the operator's, what they show is a stranger's. Attributes that lead out of the values are refused
(jinja2.sandbox), values cannot be changed, and every round of a loop and every call costs steps: a page that would take
too long ends with `TooMuch`. A step costs more in a large template, since one round can repeat all of it. Repetition of
texts and powers are bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from jinja2 import BaseLoader, StrictUndefined, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: About 50 ms of a loop that does little.
MAX_STEPS: Final = 100_000
#: A page of this size is already slow to read.
MAX_OUTPUT_CHARS: Final = 1024 * 1024
_CHARS_PER_STEP: Final = 1024
_MAX_REPEATED: Final = 65_536
_MAX_POWER_BITS: Final = 4096


class TooMuch(Exception):
    """A page that takes more steps or characters than it may."""


class Steps:
    """The steps that are left of one page."""

    __slots__ = ("cost", "left")

    def __init__(self, source_chars: int) -> None:
        """*source_chars*: the size of all templates that can be part of it."""
        self.left = MAX_STEPS
        self.cost = 1 + source_chars // _CHARS_PER_STEP

    def take(self, n: int = 1) -> None:
        """Take *n* steps. Raises `TooMuch`."""
        self.left -= n * self.cost
        if self.left < 0:
            raise TooMuch(f"more than {MAX_STEPS // self.cost} rounds of loops and calls")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all templates of one revision. `steps` are those of the page that is made now."""

    intercepted_binops = frozenset(("*", "**"))

    def __init__(self, loader: BaseLoader) -> None:
        super().__init__(
            autoescape=lambda name: not (name or "").endswith(".txt"),
            undefined=StrictUndefined,
            loader=loader,
            auto_reload=False,
            cache_size=-1,
        )
        self.steps = Steps(0)
        for wide in ("center", "format", "indent", "lipsum", "wordwrap"):
            self.filters.pop(wide, None)
            self.globals.pop(wide, None)
        self.filters["_bounded"] = self._bounded

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in template.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "_bounded", [], [], None, None, lineno=loop.lineno)
        return template

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call *obj* from a template, for one step."""
        self.steps.take()
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse products that are texts or lists, and powers, beyond a bound."""
        for one, other in ((left, right), (right, left)):
            repeats = operator == "*" and isinstance(one, int) and isinstance(other, str | bytes | list | tuple)
            if repeats and one * len(other) > _MAX_REPEATED:
                raise TooMuch(f"a repetition of more than {_MAX_REPEATED} characters")
        power = operator == "**" and isinstance(left, int) and isinstance(right, int)
        if power and left.bit_length() * right > _MAX_POWER_BITS:
            raise TooMuch(f"a power of more than {_MAX_POWER_BITS} bits")
        return super().call_binop(context, operator, left, right)

    def _bounded(self, entries: Iterable[Any]) -> Iterable[Any]:
        """Return the entries of a loop, each for one step. A list stays one: loops ask for its length."""
        if isinstance(entries, list | tuple | dict | str | range):
            self.steps.take(len(entries))
            return entries
        return self._counted(entries)

    def _counted(self, entries: Iterable[Any]) -> Iterator[Any]:
        for entry in entries:
            self.steps.take()
            yield entry
