"""The other server decides: it learns the truth about the request, and nothing passes that it did not let pass."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.support.guards import Around, Servers, decisions, field, request, section
from velocity_edge.config.middlewares.forward_auth import ForwardAuth
from workers.measures import Measures
from workers.middleware.auth.forward_auth import ForwardAuthGuard

URL: Final = "http://127.0.0.1:9091/verify"


class Rig:
    """A guard and the server that it asks."""

    def __init__(self, **settings: Any) -> None:
        asked = section(ForwardAuth, name="gate", kind="forward_auth", url=URL, **settings)
        self.servers, self.measures = Servers(), Measures()
        self.around = Around(ForwardAuthGuard(asked, self.measures, self.servers))


async def test_a_2xx_passes_with_the_fields_that_are_copied() -> None:
    rig = Rig(copy=["X-User", "x-groups"])
    rig.servers.has(URL, b"ok", 204, (b"x-user", b"alice"), (b"x-other", b"1"), (b"set-cookie", b"a=b"))
    response = await rig.around(request(b"/", (b"x-user", b"root")))
    assert response.status == 200
    assert rig.around.served[0].upstream_fields == [(b"x-user", b"alice")]
    assert decisions(rig.measures) == {"ok": 1}


async def test_it_is_asked_about_the_request_as_it_is() -> None:
    """What the client says about itself in fields of proxies does not arrive, nor what belongs to the body."""
    rig = Rig()
    rig.servers.has(URL, b"")
    lies = [(name, b"lie") for name in (b"x-forwarded-for", b"x-forwarded-uri", b"x-forwarded-host", b"forwarded")]
    lies += [(b"x-forwarded-method", b"GET"), (b"x-original-url", b"/public"), (b"content-length", b"5")]
    kept = [(b"cookie", b"s=1"), (b"authorization", b"Basic x"), (b"accept", b"text/html")]
    await rig.around(request(b"/admin?a=b", *lies, *kept, method=b"POST"))
    ((method, url, fields, body),) = rig.servers.asked
    assert (method, url, body) == ("GET", URL, b"")
    assert fields == [
        *kept,
        (b"x-forwarded-method", b"POST"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"edge.test"),
        (b"x-forwarded-uri", b"/admin?a=b"),
        (b"x-forwarded-for", b"192.0.2.7"),
    ]


@pytest.mark.parametrize("status", [302, 401, 403, 404])
async def test_another_answer_is_the_clients(status: int) -> None:
    rig = Rig()
    fields = [(b"location", b"https://login.test/"), (b"set-cookie", b"a=b"), (b"www-authenticate", b"Basic")]
    framing = [(b"transfer-encoding", b"chunked"), (b"connection", b"x"), (b"content-length", b"99")]
    rig.servers.has(URL, b"sign in", status, *fields, *framing)
    response = await rig.around(request())
    assert (response.status, response.body) == (status, b"sign in")
    assert list(response.headers) == [
        *fields,
        (b"content-length", b"7"),
        (b"cache-control", b"private, no-store"),
    ]
    assert not rig.around.served
    assert decisions(rig.measures) == {"refused": 1}


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_server_in_trouble_is_a_503(status: int) -> None:
    rig = Rig()
    rig.servers.has(URL, b"oops", status)
    response = await rig.around(request())
    assert (response.status, field(response, b"retry-after")) == (503, b"5")
    assert response.body != b"oops"
    assert not rig.around.served


async def test_a_server_that_does_not_answer_is_a_503(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    for _ in range(3):
        assert (await rig.around(request())).status == 503
    assert not rig.around.served
    assert len(caplog.records) == 1, "a flood of requests is no flood of lines"
    assert decisions(rig.measures) == {"unavailable": 3}


async def test_only_trusted_statuses_pass() -> None:
    rig = Rig(trust=[204])
    rig.servers.has(URL, b"")
    assert (await rig.around(request())).status == 403
    rig.servers.has(URL, b"", 204)
    assert (await rig.around(request())).status == 200


async def test_every_request_is_asked_about() -> None:
    rig = Rig()
    rig.servers.has(URL, b"")
    assert [(await rig.around(request())).status for _ in range(3)] == [200] * 3
    assert rig.servers.count(URL) == 3


async def test_a_copied_field_that_is_too_long_is_a_503() -> None:
    rig = Rig(copy="x-user")
    rig.servers.has(URL, b"", 200, (b"x-user", b"x" * 5000))
    assert (await rig.around(request())).status == 503
