"""Says at the end of a run what was tried on another Debian: a test that passed in there is one line out here."""

from __future__ import annotations

import pytest

PROPERTY = "platform"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == PROPERTY and report.when == "call":
                terminalreporter.line(f"platform: {value}")
