"""Invariant: a valid traceparent is continued, any other begins a new trace; upstreams get valid fields."""

import random

import pytest

from workers.serve.trace_context import Trace, TraceRule, trace_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ALL, NONE = TraceRule(1.0), TraceRule(0.0)
BITS = random.Random(7).getrandbits


def trace(*fields: tuple[bytes, bytes], rule: TraceRule = ALL) -> Trace:
    return trace_of(fields, rule, BITS)


def parent(text: str) -> tuple[bytes, bytes]:
    return b"traceparent", text.encode()


def test_a_valid_parent_is_continued_with_new_spans() -> None:
    found = trace(parent(f"00-{TRACE}-{PARENT}-00"))
    assert (found.trace_id, found.parent_id, found.sampled) == (TRACE, PARENT, True)
    assert len({found.span_id, found.child_id, PARENT}) == 3
    assert found.fields() == [(b"traceparent", f"00-{TRACE}-{found.child_id}-01".encode())]
    later = trace(parent(f"cc-{TRACE}-{PARENT}-01-more"))
    assert later.trace_id == TRACE
    assert later.fields()[0][1].startswith(b"00-")


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-0g",
        f" 00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01\n",
        f"cc-{TRACE}-{PARENT}-01more",
    ],
)
def test_an_invalid_parent_begins_a_new_trace_without_state(text: str) -> None:
    found = trace(parent(text), (b"tracestate", b"a=1"))
    assert found.trace_id != TRACE
    assert (found.parent_id, found.state) == ("", b"")
    assert trace(parent(f"00-{TRACE}-{PARENT}-01"), parent(f"00-{TRACE}-{PARENT}-01")).trace_id != TRACE


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (b"a@b=1 ,\t c=x y", b"a@b=1,c=x y"),
        (b"a=1,,b=2", b"a=1,b=2"),
        (b"a=1,a=2", b""),
        (b"A=1", b""),
        (b"a", b""),
        (b"a=b=c", b""),
        (b"a=\xff", b""),
        (b",".join(b"k%d=1" % n for n in range(33)), b""),
        (b"a=" + b"x" * 257, b""),
    ],
)
def test_only_valid_state_is_passed_on(state: bytes, expected: bytes) -> None:
    found = trace(parent(f"00-{TRACE}-{PARENT}-01"), (b"tracestate", state))
    assert found.state == expected
    assert (b"tracestate" in dict(found.fields())) == bool(expected)


def test_several_state_fields_are_one_list() -> None:
    found = trace((b"tracestate", b"a=1"), parent(f"00-{TRACE}-{PARENT}-01"), (b"tracestate", b"b=2"))
    assert found.state == b"a=1,b=2"


def test_the_share_is_kept_and_decided_by_the_trace() -> None:
    rule = TraceRule(0.1)
    found = [trace(rule=rule) for _ in range(5000)]
    assert 400 < sum(each.sampled for each in found) < 600
    for each in found[:100]:
        again = trace(parent(f"00-{each.trace_id}-{PARENT}-01"), rule=rule)
        assert again.sampled == each.sampled
    assert not trace(parent(f"00-{TRACE}-{PARENT}-01"), rule=NONE).sampled
    assert trace(parent(f"00-{TRACE}-{PARENT}-01"), rule=TraceRule(0.0, trust_clients=True)).sampled
    assert not trace(parent(f"00-{TRACE}-{PARENT}-00"), rule=TraceRule(1.0, trust_clients=True)).sampled
