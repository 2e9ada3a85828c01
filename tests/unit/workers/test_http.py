"""A short text response has the reason phrase of RFC 9110, whatever the Python version."""

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
def test_the_phrase_is_that_of_rfc_9110(status: int, said: str) -> None:
    answer = plain(status)
    assert (answer.status, answer.body) == (status, f"{said}\n".encode())
    assert dict(answer.headers)[b"content-length"] == b"%d" % (len(said) + 1)


def test_every_status_of_python_has_a_phrase() -> None:
    assert all(len(plain(status).body or b"") > 1 for status in HTTPStatus)


def test_an_explicit_text_replaces_the_phrase() -> None:
    assert plain(416, "later").body == b"later\n"
