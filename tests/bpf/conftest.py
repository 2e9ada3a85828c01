"""Prints at the end of a run how many instructions the verifier walked, because these numbers grow unnoticed."""

from __future__ import annotations

import pytest

from bpf.measure import ProgramInfo

VERIFIED = pytest.StashKey[dict[str, ProgramInfo]]()


@pytest.fixture
def verified(request: pytest.FixtureRequest) -> dict[str, ProgramInfo]:
    """The programs that tests loaded."""
    return request.config.stash.setdefault(VERIFIED, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, info in config.stash.get(VERIFIED, {}).items():
        terminalreporter.line(
            f"verifier: {name}: {info.verified_instructions} instructions walked, {info.instructions} in the program"
        )
