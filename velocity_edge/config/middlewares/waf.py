"""`content.waf`: rules by which requests are refused. Short because no rule is implemented yet."""

from __future__ import annotations

from collections.abc import Iterator

from velocity_edge.config.section import Problem, Section


class WafRules(Section):
    """Rules by which requests are refused. (Not implemented yet.)"""

    enabled: bool = True
    """Apply the rules."""
    rules: list[str] = []
    """The rules."""

    def problems(self) -> Iterator[Problem]:
        """Yield that it is not implemented."""
        if self.enabled:
            yield ("enabled",), "cannot apply rules yet: leave waf out"
