"""A pretend node for the verbs of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pretend_admin import PretendAdmin, pretend_admin, sample_status


@pytest.fixture(name="node")
def _node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendAdmin]:
    monkeypatch.setenv("VELOCITY_RUNTIME_DIR", str(tmp_path))
    with pretend_admin(tmp_path / "admin.sock") as admin:
        admin.answers["/v1/status"] = sample_status()
        yield admin
