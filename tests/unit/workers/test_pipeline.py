"""Responses are shared only through middleware that has the same effect for every client."""

from __future__ import annotations

import pytest

from workers.http import Request, Response
from workers.pipeline import Handler, Middleware, fold, own_paths


class Named(Middleware):
    """Adds its name to the order in which middleware is called."""

    def __init__(self, name: str, order: list[str], *, same_for_all: bool | None = None) -> None:
        self.name = name
        self.order = order
        if same_for_all is not None:
            self.same_for_all = same_for_all

    def wrap(self, handler: Handler) -> Handler:
        def handle(request: Request) -> Response:
            self.order.append(self.name)
            response = handler(request)
            assert isinstance(response, Response)
            return response

        return handle


def test_the_first_middleware_is_the_outermost() -> None:
    order: list[str] = []
    pipeline = fold([Named("a", order), Named("b", order)], lambda request: Response(200))
    pipeline.handle(Request(b"GET", b"h", b"/"))
    assert order == ["a", "b"]


@pytest.mark.parametrize(
    ("declared", "may_share"),
    [([], True), ([True, True], True), ([None], False), ([True, None], False), ([False, True], False)],
)
def test_sharing_requires_the_declaration_of_every_middleware(declared: list[bool | None], may_share: bool) -> None:
    middlewares = [Named("", [], same_for_all=same) for same in declared]
    assert fold(middlewares, lambda request: Response(200, shared=True)).may_share is may_share


class WithPath(Named):
    def paths(self) -> dict[bytes, Handler]:
        return {b"/own": lambda request: Response(204)}


def test_a_path_of_a_middleware_is_inside_of_those_before_it_and_is_never_shared() -> None:
    order: list[str] = []
    around = [Named("a", order, same_for_all=True), WithPath("b", order, same_for_all=True), Named("c", order)]
    ((path, middleware, pipeline),) = own_paths(around)
    answer = pipeline.handle(Request(b"GET", b"h", b"/own"))
    assert (path, middleware, order, pipeline.may_share) == (b"/own", around[1], ["a"], False)
    assert isinstance(answer, Response)
    assert answer.status == 204
