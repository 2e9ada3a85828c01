"""Runs every case against one server: name of the case -> what is wrong ("" for nothing), and what the server said."""

from __future__ import annotations

from collections.abc import Iterable

from tests.compare.cases import FILES, PROXIED, Files, Proxied
from tests.compare.client import Client, Reply
from tests.compare.recorder import Recorder, Unclean
from tests.compare.smuggling import Case
from tests.compare.smuggling import cases as smuggling_cases
from tests.support.h3_bytes import Field

#: Case -> (what is wrong, what was answered).
Results = dict[str, tuple[str, str]]


async def files(port: int, only: Iterable[Files] = FILES) -> Results:
    """Run the cases of a server of files."""
    results: Results = {}
    async with Client(port) as client:
        first = await client.ask(_request("GET", "/file.txt"))
        known = {"etag": first.get("etag") or '""', "last_modified": first.get("last-modified") or ""}
        for case in only:
            fields = {name: value.format(**known) for name, value in case.fields.items()}
            authority = fields.pop(":authority", "localhost")
            reply = await client.ask(_request(case.method, case.path, authority, tuple(fields.items())))
            results[case.name] = _judge(case.check, reply)
    return results


async def proxied(port: int, recorder: Recorder, only: Iterable[Proxied] = PROXIED) -> Results:
    """Run the cases of a proxy."""
    results: Results = {}
    async with Client(port) as client:
        for number, case in enumerate(only):
            path = b"/p/%d" % number
            recorder.forget()
            recorder.answers[path] = case.answer
            if case.closes:
                recorder.closing.add(path)
            fields = [*_request(case.method, path.decode(), "proxied.test"), *case.fields]
            reply = await client.ask(fields, case.body, case.trailers or None)
            wrong, said = _judge(case.check, reply)
            try:
                arrived = [message for message in recorder.messages() if message.target == path]
                wrong = wrong or (case.arrived(arrived[0]) if arrived else "nothing arrived at the upstream")
            except Unclean as error:
                wrong = f"the upstream got {error}"
            results[case.name] = wrong, said
    return results


async def smuggling(port: int, recorder: Recorder, only: Iterable[Case] | None = None) -> Results:
    """Run the smuggling corpus."""
    results: Results = {}
    async with Client(port) as client:
        for case in only or smuggling_cases():
            recorder.forget()
            reply = await client.ask(case.fields, case.body, case.trailers)
            results[case.name] = _clean(case, reply, recorder), reply.said()
    return results


def _clean(case: Case, reply: Reply, recorder: Recorder) -> str:
    try:
        arrived = recorder.messages()
    except Unclean as error:
        return f"the upstream got {error}"
    if len(arrived) > 1:
        return f"{len(arrived)} requests arrived"
    if any(b"/smuggled" in message.target for message in arrived):
        return "the smuggled request arrived"
    if case.must_refuse:
        if arrived:
            return f"it arrived: {arrived[0].method!r} {arrived[0].target[:40]!r}"
        if not reply.refused:
            return f"answered {reply.said()}"
    return ""


def _judge(check: object, reply: Reply) -> tuple[str, str]:
    assert callable(check)
    if not reply.status and reply.reset is None and reply.closed is None:
        return "no answer", "no answer"
    return str(check(reply)), reply.said()


def _request(
    method: str, path: str, authority: str = "localhost", extra: Iterable[tuple[str, str]] = ()
) -> list[Field]:
    pseudo = ((":method", method), (":scheme", "https"), (":authority", authority), (":path", path))
    return [(name.encode(), value.encode("latin-1")) for name, value in (*pseudo, *extra)]
