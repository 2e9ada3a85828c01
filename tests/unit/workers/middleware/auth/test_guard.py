"""Around each kind: nothing early, required claims, fields for upstreams, private responses; decisions are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.support.guards import Around, decisions, field, request
from velocity_edge.http.message import parse_head
from workers.http import Forward, HeadEdit, Request, Response
from workers.measures import Measures
from workers.middleware.auth.guard import Admitted, Guard, Refused, Verdict, own
from workers.middleware.auth.strip import StripIdentity
from workers.pipeline import fold

ALICE = {"sub": "alice", "groups": ["staff"]}


class Fixed(Guard):
    """Has decided already."""

    def __init__(self, verdict: Verdict, **settings: Any) -> None:
        self.measures = Measures()
        super().__init__("gate", self.measures, **settings)
        self.verdict = verdict

    def identify(self, request: Request) -> Verdict:
        return self.verdict


class Later(Fixed):
    """Decides later."""

    async def identify(self, request: Request) -> Verdict:  # type: ignore[override]
        return self.verdict


KINDS = pytest.mark.parametrize("kind", [Fixed, Later])


@KINDS
async def test_a_known_client_passes_with_its_claims_and_fields(kind: type[Fixed]) -> None:
    verdict = Admitted(ALICE, fields=((b"cookie", b"a=1"),), drop=(b"cookie",))
    around = Around(kind(verdict, required={"groups": ["staff"]}, forward={"sub": b"x-user"}))
    response = await around(request())
    assert (response.status, field(response, b"cache-control")) == (200, b"private")
    (served,) = around.served
    assert served.claims == ALICE
    assert served.upstream_fields == [(b"x-user", b"alice"), (b"cookie", b"a=1")]
    assert served.upstream_drop == [b"cookie"]
    assert decisions(around.guard.measures) == {"ok": 1}  # type: ignore[attr-defined]


@KINDS
@pytest.mark.parametrize(
    ("settings", "claims"),
    [
        ({"required": {"groups": ["admin"]}}, ALICE),
        ({"required": {"email": []}}, ALICE),
        ({"forward": {"name": b"x-name"}}, {"name": "a\r\nx-admin: 1"}),
    ],
)
async def test_a_client_that_lacks_a_claim_is_refused(
    kind: type[Fixed], settings: Mapping[str, Any], claims: Mapping[str, Any]
) -> None:
    around = Around(kind(Admitted(claims), **settings))
    response = await around(request())
    assert (response.status, field(response, b"cache-control")) == (403, b"private, no-store")
    assert not around.served
    assert decisions(around.guard.measures) == {"forbidden": 1}  # type: ignore[attr-defined]


@KINDS
async def test_a_refusal_is_the_response(kind: type[Fixed]) -> None:
    around = Around(kind(Refused(own(401), "invalid")))
    assert (await around(request())).status == 401
    assert not around.served
    assert decisions(around.guard.measures) == {"invalid": 1}  # type: ignore[attr-defined]


@KINDS
async def test_a_refusal_of_head_has_the_length_and_no_body(kind: type[Fixed]) -> None:
    for guard in (kind(Refused(own(401), "invalid")), kind(Admitted({}), required={"a": []})):
        response = await Around(guard)(request(method=b"HEAD"))
        assert field(response, b"content-length") not in (None, b"0")
        assert response.body is None


@KINDS
async def test_nothing_is_decided_about_a_request_that_may_be_a_replay(kind: type[Fixed]) -> None:
    around = Around(kind(Admitted(ALICE)))
    assert (await around(request(early=True))).status == 425
    assert not around.served
    assert decisions(around.guard.measures) == {"early": 1}  # type: ignore[attr-defined]


def test_responses_are_never_shared_between_clients() -> None:
    assert not fold([Fixed(Admitted(ALICE))], lambda asked: Response(200, shared=True)).may_share


def test_what_a_handler_says_about_caches_stays_unless_a_cookie_is_set() -> None:
    own_field = (b"cache-control", b"public, max-age=60")

    def headers(verdict: Admitted) -> Sequence[tuple[bytes, bytes]]:
        answer = Fixed(verdict).wrap(lambda asked: Response(200, (own_field,)))(request())
        assert isinstance(answer, Response)
        return answer.headers

    assert headers(Admitted(ALICE)) == [own_field]
    no_store = (b"cache-control", b"private, no-store")
    edit = HeadEdit(set=(no_store,), add=((b"set-cookie", b"x"),))
    assert headers(Admitted(ALICE, edit)) == [no_store, (b"set-cookie", b"x")]


def test_a_forwarded_response_is_private_too() -> None:
    answer = Fixed(Admitted(ALICE)).wrap(lambda asked: Forward(asked, None))(request())
    assert isinstance(answer, Forward)
    assert answer.edit.default == ((b"cache-control", b"private"),)


def test_claims_of_two_kinds_are_joined() -> None:
    served = []

    def handler(asked: Request) -> Response:
        served.append(asked.claims)
        return Response(200)

    fold([Fixed(Admitted({"a": 1})), Fixed(Admitted({"b": 2}))], handler).handle(request())
    assert served == [{"a": 1, "b": 2}]


def test_fields_about_clients_are_removed_from_what_clients_send() -> None:
    pipeline = fold([StripIdentity(["x-user"])], lambda asked: Response(200, shared=True))
    asked = request(b"/", (b"x-user", b"root"))
    pipeline.handle(asked)
    assert asked.upstream_drop == [b"x-user"]
    assert pipeline.may_share


def test_own_responses_are_well_formed() -> None:
    head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")]
    assert parse_head([*head, *own(401, "Sign in.", (b"www-authenticate", b'Basic realm="x"')).headers])
