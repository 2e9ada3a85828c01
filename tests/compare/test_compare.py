"""Our node passes every case of the comparison with nginx and Caddy (docs/compare.md), on both engines.

`python -m tests.compare.table` runs the same cases on all of them, and prints the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.compare import run
from tests.compare.recorder import Recorder, Unclean, strict_requests
from tests.compare.smuggling import cases
from tests.compare.subjects import OURS, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=OURS)
def subject(request: pytest.FixtureRequest) -> Iterator[tuple[int, Recorder]]:
    with Recorder() as recorder, running(request.param, recorder.port) as port:
        yield port, recorder


def _wrong(results: run.Results) -> dict[str, tuple[str, str]]:
    return {name: found for name, found in results.items() if found[0]}


def test_files_are_served_as_rfc_9110_says(subject: tuple[int, Recorder]) -> None:
    assert _wrong(asyncio.run(run.files(subject[0]))) == {}


def test_requests_and_responses_are_forwarded_as_rfc_9110_and_9112_say(subject: tuple[int, Recorder]) -> None:
    assert _wrong(asyncio.run(run.proxied(*subject))) == {}


def test_nothing_malformed_and_no_second_request_reaches_an_upstream(subject: tuple[int, Recorder]) -> None:
    assert len(list(cases())) >= 60
    assert _wrong(asyncio.run(run.smuggling(*subject))) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"GET /x HTTP/1.1\r\nhost: a\r\nx: y\n\r\n\r\n",
        b"GET /x y HTTP/1.1\r\n\r\n",
        b"GET /x HTTP/1.1\r\nx y: z\r\n\r\n",
        b"GET /x HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\ncontent-length: 1\r\n\r\nabGET",
    ],
)
def test_the_recorder_notices_what_it_is_for(data: bytes) -> None:
    try:
        messages, rest = strict_requests(data)
    except Unclean:
        return
    assert len(messages) != 1 or rest
