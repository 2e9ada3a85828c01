"""Every message survives the wire unchanged, and bytes that are no message raise MessageError and nothing else."""

import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge import messages as m

ORDERS = [
    m.Equip(7, [m.Listener("0.0.0.0", 443), m.Listener("::", 443)], 4, "/run/velocity/workers.sock"),
    m.Keep(3),
    m.UseKeys([m.Epoch(2, 1.5, bytes(range(32))), m.Epoch(1, 0.5, bytes(32))], 2),
    m.Roster({1: 0, 65535: 3}),
    m.Configure(1, {"content": {"sites": []}}, [m.KeyedChain("a", b"pem", b"key", ["h3"])], ["/srv"]),
    m.Activate(1),
    m.Drain(30.0, 5.0, True),
    m.Resume(),
    m.Abort(60.0),
    m.Stop(),
]
REPORTS = [
    m.Hello(1, 4242, "portable", "asked for", revision=3, draining=True),
    m.Held(2),
    m.Prepared(1),
    m.Refused(1, "cannot use this"),
    m.Ready(1),
    m.KeysInUse([2, 1], 2),
    m.Heartbeat(1, 2, 3, 0.5, 4096),
    m.Drained(0),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda o: o.kind)
def test_orders_survive_the_wire(order: m.Order) -> None:
    assert m.decode_order(m.encode(order)) == order


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: r.kind)
def test_reports_survive_the_wire(report: m.Report) -> None:
    assert m.decode_report(m.encode(report)) == report


def test_the_lists_above_are_complete() -> None:
    assert {type(o) for o in ORDERS} == set(typing.get_args(m.Order))
    assert {type(r) for r in REPORTS} == set(typing.get_args(m.Report))


def test_an_order_is_not_a_report() -> None:
    with pytest.raises(m.MessageError):
        m.decode_report(m.encode(m.Stop()))


@given(
    st.binary(max_size=200)
    | st.sampled_from([b"[" * 100_000, b'{"kind":"Stop","more":1}', b'{"kind":"Drain"}', b"\xff"])
)
def test_junk_raises_message_error_only(packet: bytes) -> None:
    with pytest.raises(m.MessageError):
        m.decode_order(packet)


def test_secrets_do_not_show() -> None:
    secret = b"S3CRET-ROOT"
    assert "S3CRET" not in repr(m.UseKeys([m.Epoch(1, 0.0, secret)], 1))
    assert "S3CRET" not in repr(m.KeyedChain("a", b"", secret))
    with pytest.raises(m.MessageError) as caught:
        m.decode_order(b'{"kind":"UseKeys","epochs":[{"epoch":1,"created_s":0,"root":"S3CRET!"}],"seal_with":"x"}')
    assert "S3CRET" not in str(caught.value)
