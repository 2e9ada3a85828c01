"""Runs a verb of the command line in this process."""

from __future__ import annotations

import pytest

from velocity_edge.cli import main


def run_verb(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Return the exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def texts(out: str) -> list[str]:
    """Return the lines of an answer without their time."""
    return [line.split("  ", 1)[1] for line in out.splitlines()]
