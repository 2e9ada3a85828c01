"""The files of a revision are opened once, closed once, and none stays open when one of them is missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.machine import materials
from velocity_edge.config.model import Config
from velocity_edge.errors import ConfigError


def config(root: Path, **server: Any) -> Config:
    return Config.from_json(
        {
            "server": {"tls": {"self_signed": True}, **server},
            "content": {"sites": [{"hostname": "*", "root": str(root)}]},
        }
    )


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_files_of_a_revision_are_opened_once_and_closed(tmp_path: Path) -> None:
    before = descriptors()
    made = materials.gather(3, config(tmp_path), tmp_path / "state")
    assert (made.revision, list(made.roots), len(made.chains)) == (3, [str(tmp_path)], 1)
    assert "velocity-edge self-signed" not in made.config_json
    made.close()
    made.close()
    assert descriptors() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tls": {}}, "cannot serve without a certificate"),
        ({"tls": {"certificate": "/nowhere", "private_key": "/nowhere"}}, "cannot use /nowhere: No such file"),
    ],
)
def test_a_missing_file_is_named_and_no_descriptor_stays_open(tmp_path: Path, changes: Any, said: str) -> None:
    before = descriptors()
    with pytest.raises(ConfigError, match=said):
        materials.gather(1, config(tmp_path, **changes), tmp_path / "state")
    with pytest.raises(ConfigError, match=r"^content.sites\[0\].root: cannot use .*nowhere: No such file"):
        materials.gather(1, config(tmp_path / "nowhere"), tmp_path / "state")
    assert descriptors() == before
