"""Invariant: each attempt begun is ended once on its server; a request gets one answer, and waits only while it can."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_upstreams import Behind, ended, settings
from tests.support.waiting import until
from velocity_edge.http.requests import Outcome
from workers.http import Request, Response
from workers.proxy.balance import sticky_value
from workers.proxy.group import Group, GroupSettings, Member, Trip, Verdict
from workers.proxy.retry import RetryRules
from workers.proxy.server import Server


class Stage:
    """A group, and what its requests were given."""

    def __init__(self, urls: Sequence[str] = ("http://10.0.0.1",), *, most: int = 1024, **more: object) -> None:
        self.behind = Behind()
        own = [settings(url, max_connections=most) for url in urls]
        self.servers = [Server(each, self.behind.context) for each in own]
        weights = more.pop("weights", (1,) * len(own))
        pairs = tuple(zip(own, weights, strict=True))  # type: ignore[call-overload]
        self.group = Group(GroupSettings(pairs, **more), self.servers, self.behind.context)  # type: ignore[arg-type]
        self.given: dict[Trip, list[Member | Response]] = {}

    def ask(self, method: bytes = b"GET", *headers: tuple[bytes, bytes], client: str = "192.0.2.1") -> Trip:
        peer = (socket.inet_aton(client), 1)
        trip = self.group.set_out(Request(method, b"a", b"/", headers, peer=peer))
        self.given[trip] = []
        self.seat(trip)
        return trip

    def seat(self, trip: Trip) -> None:
        self.group.seat(trip, self.given[trip].append)

    def last(self, trip: Trip) -> Member | Response:
        return self.given[trip][-1]

    def name(self, trip: Trip) -> str:
        member = self.last(trip)
        assert isinstance(member, Member)
        return member.name

    def end(self, trip: Trip, outcome: Outcome = Outcome.COMPLETE, **more: object) -> Response | Verdict:
        member = self.last(trip)
        assert isinstance(member, Member)
        return self.group.ended(trip, member, ended(outcome, **more))  # type: ignore[arg-type]


THREE = ("http://10.0.0.1", "http://10.0.0.2", "http://10.0.0.3")


def test_a_request_gets_a_server_and_its_end_is_over() -> None:
    stage = Stage()
    trip = stage.ask()
    assert stage.servers[0].running == 1
    assert stage.end(trip) is Verdict.OVER
    assert stage.servers[0].running == 0


def test_another_attempt_is_on_another_server() -> None:
    stage = Stage(THREE)
    trip = stage.ask()
    names = [stage.name(trip)]
    for _ in range(2):
        assert stage.end(trip, Outcome.CONNECT_FAILED) is Verdict.AGAIN
        stage.seat(trip)
        names.append(stage.name(trip))
    assert sorted(names) == list(THREE)
    answer = stage.end(trip, Outcome.CONNECT_TIMEOUT)
    assert isinstance(answer, Response)
    assert answer.status == 504
    assert stage.behind.counted("velocity_upstream_retries_total", names[0]) == 1


def test_a_server_without_connection_is_not_tried_twice() -> None:
    stage = Stage(THREE[:1], retries=RetryRules(3))
    answer = stage.end(stage.ask(), Outcome.CONNECT_FAILED)
    assert isinstance(answer, Response)
    assert answer.status == 502


def test_a_stale_connection_is_tried_again_on_the_same_server() -> None:
    stage = Stage(THREE[:1])
    trip = stage.ask()
    assert stage.end(trip, Outcome.CLOSED_EARLY, reused=True) is Verdict.AGAIN
    stage.seat(trip)
    assert stage.end(trip) is Verdict.OVER
    assert stage.servers[0].failures == 0


@pytest.mark.parametrize("head_sent", [True, False])
def test_nothing_is_tried_again_when_the_client_has_gone_or_has_a_head(head_sent: bool) -> None:
    stage = Stage(THREE)
    assert stage.end(stage.ask(), Outcome.CLIENT_GONE, head_sent=head_sent) is Verdict.OVER
    assert stage.end(stage.ask(), Outcome.TRUNCATED) is Verdict.OVER


def test_a_server_that_fails_gets_no_requests_for_a_while() -> None:
    stage = Stage(THREE[:2], retries=RetryRules(1))
    for _ in range(4):
        trip = stage.ask()
        stage.end(trip, Outcome.CONNECT_FAILED if stage.name(trip) == THREE[0] else Outcome.COMPLETE)
    assert {stage.name(stage.ask()) for _ in range(4)} == {THREE[1]}
    assert stage.behind.counted("velocity_upstream_ejections_total", THREE[0]) == 1
    stage.behind.now_s += 5.0
    assert {stage.name(stage.ask()) for _ in range(4)} == set(THREE[:2])


def test_when_none_is_healthy_all_are_tried() -> None:
    stage = Stage(THREE[:2], retries=RetryRules(1))
    for _ in range(4):
        stage.end(stage.ask(), Outcome.CONNECT_FAILED)
    assert not any(server.usable() for server in stage.servers)
    assert {stage.name(stage.ask()) for _ in range(2)} == set(THREE[:2])


def test_a_server_of_weight_0_is_the_last_resort() -> None:
    stage = Stage(THREE[:2], weights=(0, 1), retries=RetryRules(1))
    for _ in range(2):
        trip = stage.ask()
        assert stage.name(trip) == THREE[1]
        stage.end(trip, Outcome.CONNECT_FAILED)
    assert stage.name(stage.ask()) == THREE[0]


def test_a_client_with_the_cookie_of_a_server_gets_it() -> None:
    stage = Stage(THREE, sticky=b"seat")
    value = sticky_value(THREE[1]).encode()
    names = {stage.name(stage.ask(b"GET", (b"cookie", b"a=1; seat=" + value))) for _ in range(5)}
    assert names == {THREE[1]}
    assert len({stage.name(stage.ask(b"GET", (b"cookie", b"seat=other"))) for _ in range(6)}) == 3


def test_the_same_address_gets_the_same_server() -> None:
    stage = Stage(THREE, policy="ip_hash")
    assert len({stage.name(stage.ask(client="192.0.2.7")) for _ in range(5)}) == 1
    assert len({stage.name(stage.ask(client=f"192.0.2.{i}")) for i in range(40)}) == 3


# --- waiting


def test_who_finds_no_room_waits_and_is_next() -> None:
    async def run() -> None:
        stage = Stage(most=1)
        first, second, third = stage.ask(), stage.ask(), stage.ask()
        assert (stage.given[second], stage.given[third], stage.group.waiting) == ([], [], 2)
        stage.end(first)
        assert isinstance(stage.last(second), Member)
        assert stage.given[third] == []
        stage.end(second)
        assert isinstance(stage.last(third), Member)
        stage.group.close()

    asyncio.run(run())


def test_who_has_waited_too_long_gets_a_503_and_nothing_else() -> None:
    async def run() -> None:
        stage = Stage(most=1, wait_s=0.01)
        first, second = stage.ask(), stage.ask()
        stage.behind.now_s += 0.01
        await until(lambda: stage.given[second], "an answer")
        answer = stage.last(second)
        assert isinstance(answer, Response)
        assert answer.status == 503
        stage.end(first)
        assert len(stage.given[second]) == 1

    asyncio.run(run())


def test_who_finds_the_room_full_gets_a_503() -> None:
    stage = Stage(most=1, max_waiting=0)
    stage.ask()
    answer = stage.last(stage.ask())
    assert isinstance(answer, Response)
    assert answer.status == 503


def test_who_gives_up_is_not_seated() -> None:
    async def run() -> None:
        stage = Stage(most=1)
        first, second = stage.ask(), stage.ask()
        stage.group.give_up(second)
        stage.end(first)
        assert stage.given[second] == []
        assert stage.servers[0].running == 0

    asyncio.run(run())


def test_requests_for_a_name_wait_until_it_is_resolved() -> None:
    async def run() -> None:
        stage = Stage(("http://app.test:8080",))
        stage.servers[0].start()
        trips = [stage.ask() for _ in range(3)]
        assert all(not stage.given[trip] for trip in trips)
        stage.behind.names.watched["app.test"](["10.0.0.9"], "")
        assert all(isinstance(stage.last(trip), Member) for trip in trips)
        assert stage.servers[0].client().use_addresses  # opened with the address
        assert stage.behind.clients[0].addresses == (("10.0.0.9", 8080),)

    asyncio.run(run())


def test_requests_for_a_name_that_does_not_exist_get_a_502() -> None:
    async def run() -> None:
        stage = Stage(("http://app.test",))
        stage.servers[0].start()
        waiting = stage.ask()
        stage.behind.names.watched["app.test"]([], "no such name")
        for trip in (waiting, stage.ask()):
            answer = stage.last(trip)
            assert isinstance(answer, Response)
            assert answer.status == 502

    asyncio.run(run())


def test_a_name_that_cannot_be_resolved_any_more_keeps_its_addresses() -> None:
    stage = Stage(("http://app.test",))
    stage.servers[0].start()
    tell = stage.behind.names.watched["app.test"]
    tell(["10.0.0.9"], "")
    tell([], "no name server answered")
    assert stage.servers[0].usable()
    assert isinstance(stage.last(stage.ask()), Member)


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(Outcome), st.booleans()), max_size=60), st.integers(1, 3))
def test_every_attempt_is_ended_and_every_request_is_answered_once(
    steps: list[tuple[int, Outcome, bool]], most: int
) -> None:
    async def run() -> None:
        stage = Stage(THREE, most=most, max_waiting=4)
        open_: list[Trip] = []
        answered: dict[Trip, int] = {}
        for which, outcome, body_sent in steps:
            stage.behind.now_s += 0.5
            open_.append(stage.ask())
            seated = [trip for trip in open_ if stage.given[trip] and isinstance(stage.last(trip), Member)]
            if seated and which % 3:
                trip = seated[which % len(seated)]
                verdict = stage.end(trip, outcome, body_sent=body_sent)
                if verdict is Verdict.AGAIN:
                    stage.given[trip].clear()
                    stage.seat(trip)
                else:
                    open_.remove(trip)
                    answered[trip] = answered.get(trip, 0) + 1
            for trip in [trip for trip in open_ if stage.given[trip] and isinstance(stage.last(trip), Response)]:
                open_.remove(trip)
                answered[trip] = answered.get(trip, 0) + 1
            running = sum(1 for trip in open_ if stage.given[trip])
            assert running == sum(server.running for server in stage.servers) <= 3 * most
            assert stage.group.waiting == len(open_) - running <= 4
        assert set(answered.values()) <= {1}
        stage.group.close()

    asyncio.run(run())
