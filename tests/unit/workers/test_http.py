"""A short text answer says the phrase of RFC 9110, whichever Python serves it."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from workers.http import plain


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "Not Found"),
        (413, "Content Too Large"),
        (414, "URI Too Long"),
        (416, "Range Not Satisfiable"),
        (422, "Unprocessable Content"),
        (421, "Misdirected Request"),
        (431, "Request Header Fields Too Large"),
    ],
)
def test_the_phrase_is_the_standards(status: int, said: str) -> None:
    answer = plain(status)
    assert (answer.status, answer.body) == (status, f"{said}\n".encode())
    assert dict(answer.headers)[b"content-length"] == b"%d" % (len(said) + 1)


def test_every_status_that_python_knows_has_a_phrase() -> None:
    assert all(len(plain(status).body or b"") > 1 for status in HTTPStatus)


def test_a_text_of_ones_own_stands_in_its_place() -> None:
    assert plain(416, "later").body == b"later\n"
