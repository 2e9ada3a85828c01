"""Invariant: every verb of the table has one operation, and a refusal after the first line is the last line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.admin.service import Service
from velocity_edge.admin import requests
from velocity_edge.admin.answers import Answer
from velocity_edge.admin.requests import BadRequest
from velocity_edge.admin.verbs import VERBS
from velocity_edge.errors import CannotDo, ConfigError, Unavailable


def service() -> Service:
    nothing: Any = SimpleNamespace()
    return Service(nothing, nothing, nothing)


def test_every_verb_has_an_operation_of_its_own() -> None:
    operations = service().operations
    assert set(operations) == {verb.request for verb in VERBS}
    assert len(set(operations.values())) == len(VERBS)


def answered(*steps: str | Exception) -> list[Answer]:
    """Return the lines of an operation that yields texts and then raises."""

    async def operation(_: requests.Request) -> AsyncIterator[Answer]:
        for step in steps:
            if isinstance(step, Exception):
                raise step
            yield Answer(step)

    async def play() -> list[Answer]:
        made = service()
        made.operations = {requests.Resume: operation}
        return [line async for line in made.answer(requests.Resume())]

    return asyncio.run(play())


@pytest.mark.parametrize("error", [CannotDo("cannot do it"), ConfigError("cannot read it"), BadRequest("cannot see")])
def test_a_refusal_is_raised_before_the_first_line_and_is_the_last_line_after_it(error: Exception) -> None:
    with pytest.raises(type(error)):
        answered(error)
    assert answered("begun", error) == [Answer("begun"), Answer(str(error), None, 5)]


def test_other_errors_are_not_refusals() -> None:
    with pytest.raises(Unavailable):
        answered("begun", Unavailable("cannot go on"))
