"""`content.waf`: rules by which requests are refused, and which built-in ones apply. They are run by
workers/middleware/waf.py; the built-in ones are in waf_core.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from velocity_edge.config.middlewares.waf_core import CORE
from velocity_edge.config.middlewares.waf_rule import WafRule
from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import OneOrMore, Size


class WafRules(Section):
    """Rules by which requests are refused."""

    enabled: bool = True
    """Apply the rules."""
    core: bool = True
    """Apply the built-in rules: traversal, SQL injection, cross-site scripting, Log4Shell, Shellshock and others
    (docs/edge-policies.md)."""
    core_action: Literal["block", "log"] = "block"
    """What built-in rules do. Begin with `log`, and look at what they find."""
    off: Annotated[list[str], OneOrMore] = []
    """Built-in rules that do not apply, by their ids."""
    rules: list[WafRule] = []
    """Rules of your own, which are looked at first."""
    score_limit: Annotated[int, Field(ge=1)] = 5
    """A request whose `score` rules add up to this is refused with 403."""
    body_limit_bytes: Annotated[Size, Field(le=65_536)] = Field(default=8192, alias="body_limit")
    """How many bytes of a body rules look at, up to 64KiB; the rest passes. 0: none. Only bodies that are text, forms,
    JSON or XML are looked at."""

    def problems(self) -> Iterator[Problem]:
        """Yield ids that are used twice or do not exist."""
        known = {rule.id for rule in CORE}
        for i, name in enumerate(self.off):
            if name not in known:
                yield ("off", str(i)), f"cannot switch off {name!r}: must be one of {', '.join(sorted(known))}"
        times = Counter(rule.id for rule in self.rules)
        for i, rule in enumerate(self.rules):
            if times[rule.id] > 1 or rule.id in known:
                yield ("rules", str(i), "id"), f"cannot use {rule.id!r} twice: ids must differ, also from built-in ones"
