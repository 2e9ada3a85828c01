"""Every test here runs once per engine; an engine that is not available is reported as skipped."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.engine_driver import ENGINES, World


@pytest.fixture(params=ENGINES)
def world(request: pytest.FixtureRequest) -> Iterator[Callable[..., World]]:
    """Make worlds; their invariants are checked at the end."""
    worlds: list[World] = []

    def make(**options: Any) -> World:
        worlds.append(World(request.param, **options))
        return worlds[-1]

    yield make
    for each in worlds:
        each.close()
    gc.collect()
