"""A node that serves."""

from __future__ import annotations

import pytest

from supervisor.node import happenings
from supervisor.node.lifecycle import NodeState
from tests.unit.supervisor.node.play import Play


@pytest.fixture
def serving() -> Play:
    play = Play()
    play(happenings.Started())
    play.ready(1)
    assert play.node.state is NodeState.SERVING
    return play
