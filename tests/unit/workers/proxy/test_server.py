"""Invariant: a server keeps its connections and its health as long as it is leased, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.support.fake_upstreams import Behind, FakeForwarding, Script, ended, settings
from tests.support.waiting import until
from velocity_edge.http.requests import Outcome
from workers.proxy.health import ActiveRules
from workers.proxy.probes import ProbeRules
from workers.proxy.server import Server

URL = "http://10.0.0.1:8080"


def test_its_pool_is_opened_once_with_its_address_and_closed_with_it() -> None:
    behind, forwarding = Behind(), FakeForwarding()
    server = Server(settings(URL), behind.context)
    assert server.pool(forwarding) == server.pool(forwarding) == 1
    assert forwarding.addresses == {1: (("10.0.0.1", 8080),)}
    server.close()
    assert forwarding.closed == [1]


def test_a_unix_socket_is_an_address() -> None:
    behind = Behind()
    server = Server(settings("unix:/run/x"), behind.context)
    server.client()
    assert behind.clients[0].addresses == ("/run/x",)
    server.close()
    assert behind.clients[0].closed


def test_outcomes_that_the_client_caused_are_no_failures() -> None:
    server = Server(settings(URL), Behind().context)
    for outcome in (Outcome.CLIENT_GONE, Outcome.REQUEST_TOO_LARGE, Outcome.REQUEST_TIMEOUT, Outcome.CANCELLED):
        for _ in range(3):
            server.begin()
            server.ended(ended(outcome))
    assert (server.failures, server.usable(), server.running) == (0, True, 0)


def test_silence_after_the_head_and_the_end_of_a_tunnel_are_no_failures() -> None:
    """Anybody can open a stream and let it be silent: that must not have a server left out for others."""
    server = Server(settings(URL, 1), Behind().context)
    for outcome, tunnel in ((Outcome.IDLE_TIMEOUT, False), (Outcome.TRUNCATED, True), (Outcome.IDLE_TIMEOUT, True)):
        server.begin()
        server.ended(ended(outcome), tunnel=tunnel)
    assert (server.failures, server.usable()) == (0, True)
    server.begin()
    server.ended(ended(Outcome.CONNECT_FAILED), tunnel=True)
    assert not server.usable()


def test_a_bad_status_is_a_failure_where_the_route_says_so() -> None:
    behind = Behind()
    server = Server(settings(URL, bad_statuses=((500, 503),)), behind.context)
    for status in (404, 503, 500):
        server.begin()
        server.ended(ended(status=status))
    assert server.failures == 2
    assert not server.usable()
    assert behind.counted("velocity_upstream_requests_total", URL, "503") == 1
    assert behind.counted("velocity_upstream_ejections_total", URL) == 1


def test_errors_are_counted_by_their_outcome() -> None:
    behind = Behind()
    server = Server(settings(URL, 0), behind.context)
    for outcome in (Outcome.CONNECT_FAILED, Outcome.CONNECT_FAILED, Outcome.TRUNCATED):
        server.begin()
        server.ended(ended(outcome))
    assert behind.counted("velocity_upstream_errors_total", URL, "connect_failed") == 2
    assert behind.counted("velocity_upstream_errors_total", URL, "truncated") == 1


def test_the_gauges_are_those_of_all_servers_of_an_address() -> None:
    behind = Behind()
    one, two = (Server(settings(URL, fails), behind.context) for fails in (1, 0))
    behind.context.overview.show()
    healthy = behind.measures.gauge_of("velocity_upstream_healthy", (URL,))
    assert healthy.value == 1
    one.begin()
    one.ended(ended(Outcome.CONNECT_FAILED))
    behind.context.overview.show()
    assert healthy.value == 0
    one.close()
    behind.context.overview.show()
    assert healthy.value == 1
    two.close()
    behind.context.overview.show()
    assert (URL,) in [tuple(labels) for labels in behind.measures.forgotten()["velocity_upstream_healthy"]]


PROBED = ProbeRules("/health", interval_s=0.001, body=b"fine", rules=ActiveRules(1, 1))


def test_probes_decide_whether_it_is_healthy() -> None:
    async def run() -> None:
        behind = Behind()
        server = Server(settings(URL, probe=PROBED), behind.context)
        server.start()
        server.start()
        (client,) = behind.clients
        assert client.settings.max_connections == 1

        good: Callable[[], Script] = lambda: (200, [b"it is f", b"ine"])  # noqa: E731
        bad: Callable[[], Script] = lambda: (503, [b"fine"])  # noqa: E731
        wrong: Callable[[], Script] = lambda: (200, [b"wrong"])  # noqa: E731
        for make, usable in ((bad, False), (good, True), (wrong, False), (good, True)):
            client.answers[:] = [make() for _ in range(10_000)]
            await until(lambda usable=usable: server.usable() is usable, "another state")  # type: ignore[misc]
        assert client.requests[0].target == b"/health"
        assert client.requests[0].authority == b"10.0.0.1:8080"
        server.close()
        assert client.closed

    asyncio.run(run())


def test_a_closed_server_starts_nothing() -> None:
    behind = Behind()
    server = Server(settings("http://a.test", probe=PROBED), behind.context)
    server.close()
    server.start()
    assert not behind.names.watched
    assert not behind.clients


def test_a_closed_server_is_not_told_about_its_name() -> None:
    behind = Behind()
    server = Server(settings("http://a.test"), behind.context)
    server.start()
    server.close()
    assert behind.names.watches[0].closed
