"""Waiting for a condition with a deadline: the only way a test may wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll(condition: Callable[[], T], what: str, timeout_s: float = 20.0, every_s: float = 0.02) -> T:
    """Call *condition* until it returns something true, and return that. On time-out the failure names *what*."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain for {what}")
        time.sleep(every_s)
    return value


async def until(condition: Callable[[], T], what: str, timeout_s: float = 5.0) -> T:
    """As `poll`, in a coroutine: the loop goes on meanwhile."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain for {what}")
        await asyncio.sleep(0.002)
    return value
