"""A revision is known by the number that the supervisor gave it; what is wrong with one of its sites names that site.

A worker says the number in its Hello; with 0 a successor of the supervisor takes it for one that never served.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from velocity_edge.config.model import Config
from velocity_edge.errors import ConfigError, Unavailable
from velocity_edge.pki.self_signed import self_signed
from velocity_edge.wire.messages import KeyedChain
from workers.handlers.static.beneath import Descriptor
from workers.serve.revisions import Prepared, prepare


@pytest.fixture(name="chains", scope="module")
def _chains(tmp_path_factory: pytest.TempPathFactory) -> list[KeyedChain]:
    return [self_signed(tmp_path_factory.mktemp("state")).keyed]


def prepared(number: int, chains: list[KeyedChain], *sites: dict[str, Any]) -> Prepared:
    config = Config.from_json({"server": {"tls": {"self_signed": True}}, "content": {"sites": list(sites)}})
    roots = {str(s.root): Descriptor(os.open(s.root, os.O_PATH | os.O_DIRECTORY)) for s in config.content.sites}
    return prepare(number, config, chains, roots, lambda: 0.0)


@pytest.mark.parametrize("sites", [0, 1, 3])
def test_the_number_is_the_one_that_was_ordered(tmp_path: Path, chains: list[KeyedChain], sites: int) -> None:
    made = prepared(7, chains, *({"hostname": f"{n}.test", "root": str(tmp_path)} for n in range(sites)))
    assert (made.number, made.requests.number) == (7, 7)


def test_a_site_that_cannot_be_served_is_named(
    tmp_path: Path, chains: list[KeyedChain], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()

    def probe(fd: int, name: str) -> None:
        if name == str(bad):
            raise Unavailable(f"cannot serve files from {name}: user id 65534 may not read it")

    monkeypatch.setattr("workers.serve.revisions.probe", probe)
    sites = ({"hostname": "good.test", "root": str(good)}, {"hostname": "bad.test", "root": str(bad)})
    with pytest.raises(Unavailable, match=r"^content\.sites\[1\] \(bad\.test\): cannot serve files from .*/bad"):
        prepared(2, chains, *sites)
    missing = {"hostname": "good.test", "root": str(good), "error_pages": {"404": "404.html"}}
    with pytest.raises(ConfigError, match=r"^content\.sites\[0\] \(good\.test\): cannot use .*404.html"):
        prepared(2, chains, missing)
