"""Invariant: a name has its last good addresses, asks again when they expire, and never asks faster than bounded."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import until
from workers.proxy.dns import CannotResolve, Found, Resolver, backoff_s, parse_hosts


class NameServer:
    """A name server on a port of 127.0.0.1: names -> addresses; others do not exist."""

    def __init__(self, names: dict[str, list[str]], ttl_s: int = 60) -> None:
        self.names = names
        self.ttl_s = ttl_s
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                data, peer = self._socket.recvfrom(4096)
            except OSError:
                return
            query = dns.message.from_wire(data)
            (question,) = query.question
            name = question.name.to_text(omit_final_dot=True)
            self.asked.append(name)
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.RA
            addresses = self.names.get(name)
            if addresses is None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            kind = dns.rdatatype.to_text(question.rdtype)
            found = [each for each in addresses or () if (":" in each) == (kind == "AAAA")]
            if found:
                answer.answer.append(dns.rrset.from_text(question.name, self.ttl_s, "IN", kind, *found))
            self._socket.sendto(answer.to_wire(), peer)


class Told:
    """What a watcher was told."""

    def __init__(self) -> None:
        self.results: list[tuple[tuple[str, ...], str]] = []

    def __call__(self, addresses: Sequence[str], reason: str) -> None:
        self.results.append((tuple(addresses), reason))


def resolve(name: str, server: NameServer, *, search: str = "") -> tuple[tuple[str, ...], str]:
    async def run() -> tuple[tuple[str, ...], str]:
        resolver, told = Resolver(lambda: 0.5, port=server.port), Told()
        resolver.use(f"nameserver 127.0.0.1\n{search}", "192.0.2.5 fixed.test # comment\n::5 fixed.test")
        watch = resolver.watch(name, told)
        await until(lambda: told.results, "a result")
        watch.close()
        return told.results[0]

    try:
        return asyncio.run(run())
    finally:
        server.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("app.test", (("2001:db8::1", "192.0.2.1", "192.0.2.2"), "")),
        ("fixed.test", (("::5", "192.0.2.5"), "")),
        ("localhost", (("::1", "127.0.0.1"), "")),
        ("none.test", ((), "no such name")),
        ("empty.test", ((), "the name has no address")),
    ],
)
def test_a_name_is_resolved_by_hosts_and_name_server(name: str, expected: tuple[tuple[str, ...], str]) -> None:
    server = NameServer({"app.test": ["192.0.2.2", "192.0.2.1", "2001:db8::1"], "empty.test": []})
    assert resolve(name, server) == expected


def test_a_short_name_is_searched_for() -> None:
    server = NameServer({"app.inner.test": ["192.0.2.1"]})
    assert resolve("app", server, search="search inner.test") == (("192.0.2.1",), "")


class Lookup:
    """Answers in turn; the last one again and again."""

    def __init__(self, *answers: Found | str) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str) -> Found:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            raise CannotResolve(answer)
        return answer


def test_a_change_is_told_and_a_failure_keeps_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.proxy.dns._MIN_TTL_S", 0.001)
    monkeypatch.setattr("workers.proxy.dns.backoff_s", lambda failures, random: 0.001)
    one, two = Found(("192.0.2.1",), 0.001), Found(("192.0.2.2",), 3600.0)

    async def run() -> None:
        lookup, told, late = Lookup(one, one, "gone", two), Told(), Told()
        resolver = Resolver(lambda: 0.5, lookup)
        watch = resolver.watch("a.test", told)
        await until(lambda: len(told.results) == 3, "three results")
        assert told.results == [(("192.0.2.1",), ""), ((), "gone"), (("192.0.2.2",), "")]
        resolver.watch("a.test", late).close()
        assert late.results == [(("192.0.2.2",), "")]
        assert lookup.asked == 4
        watch.close()
        assert not resolver._names
        await asyncio.sleep(0)

    asyncio.run(run())


def test_other_files_have_names_resolved_again() -> None:
    async def run() -> None:
        resolver, told = Resolver(lambda: 0.5), Told()
        resolver.use("nameserver 127.0.0.1", "192.0.2.1 a.test")
        resolver.watch("a.test", told)
        await until(lambda: len(told.results) == 1, "the first addresses")
        resolver.use("nameserver 127.0.0.1", "192.0.2.1 a.test")
        resolver.use("nameserver 127.0.0.1", "192.0.2.2 a.test")
        await until(lambda: len(told.results) == 2, "the second addresses")
        assert told.results == [(("192.0.2.1",), ""), (("192.0.2.2",), "")]

    asyncio.run(run())


def test_the_pause_after_failures_grows_and_is_bounded() -> None:
    assert [backoff_s(n, 1.0) for n in (1, 2, 3, 7, 99)] == [1.0, 2.0, 4.0, 60.0, 60.0]
    assert backoff_s(3, 0.0) == 2.0


@given(st.text())
def test_any_hosts_file_is_read(text: str) -> None:
    for name, addresses in parse_hosts(text).items():
        assert name
        assert addresses


def test_lines_of_a_hosts_file() -> None:
    text = "127.0.0.1 localhost a A.\n# 1.1.1.1 b\nnonsense c\n::1 a#x\n192.0.2.1\n\n10.0.0.1\td e"
    assert parse_hosts(text) == {
        "localhost": ("127.0.0.1",),
        "a": ("::1", "127.0.0.1"),
        "d": ("10.0.0.1",),
        "e": ("10.0.0.1",),
    }
