"""A revision that is refused, or replaced before its activation, releases what it has opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from velocity_edge.config.model import Config
from velocity_edge.errors import Unavailable
from velocity_edge.pki.self_signed import self_signed
from velocity_edge.wire import messages as m
from workers.handlers.build import HandlerContext
from workers.process.candidates import Candidates
from workers.serve.revisions import Prepared


class Stage:
    """Candidates of a worker that is told to configure a site below *root*."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root = root
        self.context = HandlerContext(lambda: 0.0)
        self.candidates = Candidates(self.context)
        self.chains = [self_signed(root.parent).keyed]

    def configure(self, revision: int, error: Exception | None = None, **settings: Any) -> m.Prepared | m.Refused:
        site = {"hostname": "*", "root": str(self.root), **settings}
        config = Config.from_json({"content": {"sites": [site]}}).to_json()
        order = m.Configure(revision, config, self.chains, [str(self.root)])

        def check(prepared: Prepared) -> None:
            if error is not None:
                raise error

        return self.candidates.configure(order, [os.open(self.root, os.O_PATH | os.O_DIRECTORY)], check)


@pytest.fixture(name="stage")
def _stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "www")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Unavailable("cannot do it"), "cannot do it"), (KeyError("x"), "cannot prepare it: KeyError: 'x' (a bug;")],
)
def test_a_refused_revision_is_released(stage: Stage, error: Exception, reason: str) -> None:
    report = stage.configure(1, error)
    assert isinstance(report, m.Refused)
    assert report.reason.startswith(reason)
    assert len(stage.context.resources) == 0
    with pytest.raises(RuntimeError, match="never prepared"):
        stage.candidates.take(1)


def test_only_the_newest_revision_is_kept(stage: Stage) -> None:
    assert stage.configure(1) == m.Prepared(1)
    assert stage.configure(2, cache_control="no-store") == m.Prepared(2)
    assert len(stage.context.resources) == 1
    assert isinstance(stage.configure(3, Unavailable("cannot do it")), m.Refused)
    assert stage.candidates.take(2).number == 2
    stage.candidates.close()
    assert len(stage.context.resources) == 1, "it is active now"


def test_a_stop_releases_what_was_not_activated(stage: Stage) -> None:
    stage.configure(1)
    stage.candidates.close()
    assert len(stage.context.resources) == 0
