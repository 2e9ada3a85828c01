"""Every response gets the fields of its route once, and what the handler set itself stays."""

from __future__ import annotations

from velocity_edge.config.actions import FixedAnswer
from velocity_edge.config.content import Content, Site
from velocity_edge.config.patterns import parse_pattern
from velocity_edge.config.routes import Action, Route, Surroundings
from velocity_edge.config.server import Server
from workers.handlers.build import HandlerContext
from workers.http import Request, Response
from workers.middleware.build import Parts, around_errors, middleware_of
from workers.middleware.headers import SECURITY, AddHeaders, Date
from workers.pipeline import Handler, fold

CONTEXT = HandlerContext(lambda: 0.0)
NOON_S = 784111777.9  # RFC 9110 section 5.6.7: Sun, 06 Nov 1994 08:49:37 GMT
DATE = (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT")
REQUEST = Request(b"GET", b"a.test", b"/")


def respond(*headers: tuple[bytes, bytes], shared: bool = False) -> Handler:
    return lambda request: Response(200, headers, b"x", shared)


def answered(handler: Handler, *fields: tuple[bytes, bytes]) -> Response:
    response = AddHeaders(fields, Date(lambda: NOON_S)).wrap(handler)(REQUEST)
    assert isinstance(response, Response)
    return response


def test_fields_and_the_date_follow_those_of_the_handler() -> None:
    response = answered(respond((b"etag", b'"1"')), (b"server", b"edge"))
    assert response == Response(200, ((b"etag", b'"1"'), (b"server", b"edge"), DATE), b"x")


def test_a_field_that_the_handler_set_is_not_added_again() -> None:
    own = ((b"server", b"mine"), (b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"))
    response = answered(respond(*own), (b"server", b"edge"), (b"x-frame-options", b"DENY"))
    assert list(response.headers) == [*own, (b"x-frame-options", b"DENY")]


async def test_a_response_that_comes_later_gets_them_too() -> None:
    async def later(request: Request) -> Response:
        return Response(204)

    response = AddHeaders(((b"server", b"edge"),), Date(lambda: NOON_S)).wrap(later)(REQUEST)
    assert not isinstance(response, Response)
    assert list((await response).headers) == [(b"server", b"edge"), DATE]


def test_the_date_is_formatted_once_per_second() -> None:
    now_s = [NOON_S]
    date = Date(lambda: now_s[0])
    first = date()
    now_s[0] += 0.09
    assert date() is first
    now_s[0] += 0.02
    assert date() == (b"date", b"Sun, 06 Nov 1994 08:49:38 GMT")


def test_added_fields_are_the_same_for_all_clients() -> None:
    pipeline = fold([AddHeaders((), Date(lambda: NOON_S))], respond(shared=True))
    assert pipeline.may_share
    response = pipeline.handle(REQUEST)
    assert isinstance(response, Response)
    assert response.shared


def fields_around(middlewares: object) -> set[bytes]:
    assert isinstance(middlewares, list)
    response = fold(middlewares, respond()).handle(REQUEST)
    assert isinstance(response, Response)
    return {name for name, _ in response.headers}


def test_sites_have_the_security_headers_unless_they_switch_them_off() -> None:
    server, date = Server(), Date(lambda: NOON_S)

    def around(action: Action) -> object:
        parts = Parts(server, date, {}, CONTEXT, CONTEXT.resources.lease())
        return middleware_of(Route("*", parse_pattern("/"), (), action, (), Surroundings()), parts)

    site = Site.model_validate_json('{"hostname": "*", "root": "/srv"}')
    bare = Site.model_validate_json('{"hostname": "*", "root": "/srv", "security_headers": false}')
    security = {name for name, _ in SECURITY}
    assert fields_around(around(site)) == {b"server", b"date", *security}
    assert fields_around(around(bare)) == {b"server", b"date"}
    assert fields_around(around(FixedAnswer(type="static"))) == {b"server", b"date"}


def test_an_empty_server_header_is_not_sent() -> None:
    quiet = Server.model_validate({"server_header": ""})
    assert fields_around(around_errors(Content(), quiet, Date(lambda: NOON_S), CONTEXT)) == {b"date"}
