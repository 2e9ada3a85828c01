"""Prints at the end of a run what ran on another Debian release: one line per test that passed there."""

from __future__ import annotations

import pytest

PROPERTY = "platform"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == PROPERTY and report.when == "call":
                terminalreporter.line(f"platform: {value}")
