"""Invariant: every way an attempt can end without an answer has one, and it says nothing about the server."""

from __future__ import annotations

import pytest

from velocity_edge.http.requests import Outcome
from workers.proxy.answers import answer_to, too_busy


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_complete_answer(outcome: Outcome) -> None:
    answer = answer_to(outcome)
    assert answer.status in (408, 413, 502, 503, 504)
    assert isinstance(answer.body, bytes)
    assert dict(answer.headers)[b"content-length"] == b"%d" % len(answer.body)


def test_time_outs_are_504_and_limits_are_the_clients() -> None:
    statuses = {outcome.name: answer_to(outcome).status for outcome in Outcome}
    assert statuses["CONNECT_FAILED"] == statuses["CLOSED_EARLY"] == statuses["INVALID"] == 502
    assert statuses["CONNECT_TIMEOUT"] == statuses["RESPONSE_TIMEOUT"] == 504
    assert (statuses["REQUEST_TOO_LARGE"], statuses["REQUEST_TIMEOUT"]) == (413, 408)


def test_who_is_refused_for_load_may_come_again() -> None:
    answer = too_busy()
    assert answer.status == 503
    assert dict(answer.headers)[b"retry-after"] == b"1"
