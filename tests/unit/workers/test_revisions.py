"""A revision is known by the number that the supervisor gave it, however many sites it has.

A worker says it in its Hello; with another one a successor of the supervisor takes it for one that never served.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from velocity_edge.config.model import Config
from velocity_edge.pki.self_signed import self_signed
from workers.handlers.beneath import Descriptor
from workers.revisions import prepare


@pytest.mark.parametrize("sites", [0, 1, 3])
def test_it_keeps_its_number(tmp_path: Path, sites: int) -> None:
    (tmp_path / "site").mkdir()
    root = str(tmp_path / "site")
    hosts = [{"hostname": f"{n}.example", "root": root} for n in range(sites)]
    config = Config.from_json(
        {"server": {"listen": ["127.0.0.1:0"], "tls": {"self_signed": True}}, "content": {"sites": hosts}}
    )
    roots = {root: Descriptor(os.open(root, os.O_PATH | os.O_DIRECTORY))}
    revision = prepare(7, config, [self_signed(tmp_path / "state").keyed], roots, lambda: 0.0)
    assert (revision.number, revision.requests.number) == (7, 7)
