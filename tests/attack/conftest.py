"""Every attack runs once per engine; an engine that this machine has not is a loud skip."""

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
    """Make worlds; what must hold after any experiment is checked at the end."""
    worlds: list[World] = []

    def make(**options: Any) -> World:
        worlds.append(World(request.param, **options))
        return worlds[-1]

    yield make
    for each in worlds:
        each.close()
    gc.collect()
