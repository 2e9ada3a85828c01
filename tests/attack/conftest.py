"""Every attack runs once per engine; an engine that is not available here is skipped."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.coroutines import pytest_pyfunc_call
from tests.support.engine_driver import ENGINES, World

__all__ = ["pytest_pyfunc_call", "world"]


@pytest.fixture(params=ENGINES)
def world(request: pytest.FixtureRequest) -> Iterator[Callable[..., World]]:
    """Make worlds; the invariants of every experiment are checked at the end."""
    worlds: list[World] = []

    def make(**options: Any) -> World:
        worlds.append(World(request.param, **options))
        return worlds[-1]

    yield make
    for each in worlds:
        each.close()
    gc.collect()
