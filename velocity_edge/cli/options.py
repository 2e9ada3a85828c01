"""Options that several verbs share, and the type of durations on the command line.

The texts of --help are written once here, so that the verbs say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from velocity_edge.config.values import parse_duration


class Duration(click.ParamType[float]):
    """A duration on the command line: 30s, 5m, 1h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


SECONDS: Final = Duration()
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

reason_option: Final = click.option("--reason", default="", help='The reason, for the log and for others: "CHG-1234".')
answers_as_json: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print the answers as JSON, one per line."
)
as_json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
dry_run_option: Final = click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")


def timeout_option(default: str, text: str = "Wait at most this long") -> Decorator:
    """Return the option --timeout."""
    return click.option("--timeout", type=SECONDS, default=default, help=f"{text} ({default}).")
