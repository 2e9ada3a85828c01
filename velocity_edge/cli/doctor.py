"""`doctor`: what a node can use on this machine, what is missing, and the command that repairs it."""

from __future__ import annotations

import sys
from typing import Final

import click

from velocity_edge.cli.output import show, show_json, show_raw
from velocity_edge.exits import Exit
from velocity_edge.machine.doctor import examine
from velocity_edge.machine.findings import Finding, Level
from velocity_edge.text.printable import printable

_MARK: Final = {Level.FINE: "ok", Level.NOTE: "--", Level.LACKING: "LESS", Level.FATAL: "FAIL"}
_COLOUR: Final = {Level.FINE: "green", Level.NOTE: None, Level.LACKING: "yellow", Level.FATAL: "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show only what is missing.")
def doctor(as_json: bool, quiet: bool) -> int:
    """Check this machine: what a node can use here, and what is missing.

    Exit code 0: nothing is missing; 6: a node can serve, but some features are missing; 1: it cannot serve.
    """
    findings = examine()
    if as_json:
        show_json({"findings": findings})
    else:
        _print([f for f in findings if not quiet or f.level in (Level.LACKING, Level.FATAL)])
        show(_verdict(findings))
    return verdict(findings)


def verdict(findings: list[Finding]) -> Exit:
    """Return the exit code for *findings*."""
    levels = {finding.level for finding in findings}
    return Exit.FAILED if Level.FATAL in levels else Exit.DEGRADED if Level.LACKING in levels else Exit.DONE


def _print(findings: list[Finding]) -> None:
    colour = sys.stdout.isatty()
    width = max((len(finding.subject) for finding in findings), default=0)
    for finding in findings:
        mark = f"{_MARK[finding.level]:4}"
        if colour:
            mark = click.style(mark, fg=_COLOUR[finding.level])
        show_raw(f"{mark}  {printable(f'{finding.subject:{width}}  {finding.text}')}")
        if finding.remedy:
            show(f"      {'':{width}}  -> {finding.remedy}")


def _verdict(findings: list[Finding]) -> str:
    match verdict(findings):
        case Exit.DONE:
            return "Nothing is missing on this machine."
        case Exit.DEGRADED:
            return "A node can serve here, but some features are missing: see LESS."
        case _:
            return "A node cannot serve here: see FAIL."
