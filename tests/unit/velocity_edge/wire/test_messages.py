"""A message is decoded as it was encoded, also between versions; other bytes raise MessageError and nothing else."""

import contextlib
import json
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.wire import messages as m

ORDERS = [
    m.Equip(7, [m.Listener("0.0.0.0", 443), m.Listener("::", 443)], 4, "/run/velocity/workers.sock"),
    m.Keep(3),
    m.UseKeys([m.Epoch(2, 1.5, bytes(range(32))), m.Epoch(1, 0.5, bytes(32))], 2, [2], [1]),
    m.Roster({1: 0, 65535: 3}),
    m.Configure(1, {"content": {"sites": []}}, [m.KeyedChain("a", b"pem", b"key", ["h3"])], ["/srv"]),
    m.Activate(1),
    m.Drain(30.0, 5.0, True),
    m.Resume(),
    m.Abort(60.0),
    m.Move([3, 1], 10.0),
    m.SetLogLevels("workers.proxy=debug", 600.0),
    m.Stop(),
]
REPORTS = [
    m.Hello(1, 4242, "portable", "asked for", revision=3, draining=True),
    m.Held(2),
    m.Prepared(1),
    m.Refused(1, "cannot use this"),
    m.Ready(1),
    m.KeysInUse([2, 1], 2, [1]),
    m.Heartbeat(1, 2, 3, 0.5, 4096, {0: 7, 6: 1}, m.Left(1, 2, [m.OpenConnection("example.com", 460.0, 2)])),
    m.Drained(2, 1),
    m.Aborted(3, 1),
    m.Measured({"velocity_rate_limited_total": [(["login"], [3.0])]}, {"velocity_waf_total": [["sqli", "block"]]}),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda o: o.kind)
def test_orders_are_decoded_as_they_were_encoded(order: m.Order) -> None:
    assert m.decode_order(m.encode(order)) == order


@pytest.mark.parametrize("report", REPORTS, ids=lambda r: r.kind)
def test_reports_are_decoded_as_they_were_encoded(report: m.Report) -> None:
    assert m.decode_report(m.encode(report)) == report


def test_the_lists_above_are_complete() -> None:
    assert {type(o) for o in ORDERS} == set(typing.get_args(m.Order))
    assert {type(r) for r in REPORTS} == set(typing.get_args(m.Report))


def test_a_field_that_an_older_version_leaves_out_has_its_default() -> None:
    """An older worker does not count by key, and an older supervisor does not send which connection IDs are live."""
    report = m.decode_report(
        b'{"kind":"Heartbeat","connections":1,"half_open":0,"requests":2,"loop_lag_ms":0,"rss_bytes":3}'
    )
    assert report == m.Heartbeat(1, 0, 2, 0.0, 3, None)
    assert m.decode_report(b'{"kind":"KeysInUse","epochs":[1],"seal_with":1}') == m.KeysInUse([1], 1, None)
    assert m.decode_order(b'{"kind":"UseKeys","epochs":[],"seal_with":1}') == m.UseKeys([], 1, [], [])


def test_the_transport_of_a_listener_is_written_only_when_it_is_not_udp() -> None:
    """Older versions write and read a listener without it."""
    written = json.loads(m.encode(m.Equip(7, [m.Listener("::", 443), m.Listener("::", 443, "tcp")], 4)))
    assert written["listeners"] == [
        {"host": "::", "port": 443},
        {"host": "::", "port": 443, "transport": "tcp"},
    ]
    equip = m.decode_order(json.dumps(written).encode())
    assert isinstance(equip, m.Equip)
    assert [listener.transport for listener in equip.listeners] == ["udp", "tcp"]
    written["listeners"][1]["transport"] = "carrier pigeon"
    with pytest.raises(m.MessageError):
        m.decode_order(json.dumps(written).encode())


def test_an_order_is_not_a_report() -> None:
    with pytest.raises(m.MessageError):
        m.decode_report(m.encode(m.Stop()))


@pytest.mark.parametrize(
    "packet", [b"[" * 100_000, b'{"kind":"Drain"}', b'{"kind":"Abort","age_s":[]}', b'{"kind":"../x"}', b"\xff", b""]
)
def test_invalid_packets_raise_message_error(packet: bytes) -> None:
    with pytest.raises(m.MessageError):
        m.decode_order(packet)


@given(st.binary(max_size=200))
def test_random_packets_raise_nothing_but_message_error(packet: bytes) -> None:
    with contextlib.suppress(m.MessageError):
        assert isinstance(m.decode_order(packet), typing.get_args(m.Order))


#: The messages of version 0.1.0, byte for byte. Such peers exist: no line may change.
PAST = Path(__file__).with_name("said_by_0.1.0.jsonl").read_text().splitlines()


@pytest.mark.parametrize("line", PAST, ids=lambda line: json.loads(line)["kind"])
def test_the_messages_of_an_older_version_are_decoded(line: str) -> None:
    kind = json.loads(line)["kind"]
    decode = m.decode_order if kind in {type(o).__name__ for o in ORDERS} else m.decode_report
    message = decode(line.encode())
    assert json.loads(m.encode(message)).items() >= json.loads(line).items()


def test_every_kind_of_that_version_is_in_the_list() -> None:
    assert len({json.loads(line)["kind"] for line in PAST}) == len(PAST) == 18


def grown(value: object) -> object:
    """Return a JSON value as a later version might write it: every object has one more field."""
    if isinstance(value, dict):
        return {key: grown(part) for key, part in value.items()} | {"from_the_future": {"a": [1]}}
    return [grown(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("message", [*ORDERS, *REPORTS], ids=lambda message: message.kind)
def test_fields_of_a_later_version_are_ignored(message: m.Message) -> None:
    decode = m.decode_order if isinstance(message, typing.get_args(m.Order)) else m.decode_report
    document = json.loads(m.encode(message))
    # Roster's and Configure's dictionaries are values, not objects with fields.
    parts = {key: part if isinstance(part, dict) else grown(part) for key, part in document.items()}
    assert decode(json.dumps(parts | {"from_the_future": 1}).encode()) == message


def test_a_kind_of_a_later_version_is_distinguished_from_an_invalid_message() -> None:
    with pytest.raises(m.UnknownKind, match="Teleport"):
        m.decode_order(b'{"kind":"Teleport","where":"away"}')
    for invalid in (b'{"kind":"Prepared","revision":1}', b'{"kind":"teleport it"}', b'{"kind":7}', b'{"kind":["A"]}'):
        with pytest.raises(m.MessageError) as caught:
            m.decode_order(invalid)
        assert not isinstance(caught.value, m.UnknownKind), invalid


@pytest.mark.parametrize(
    ("protocols", "expected"), [({}, True), ((1, 1), True), ((9, 1), True), ((9, 2), False), ((0, 0), False)], ids=str
)
def test_peers_speak_when_their_ranges_of_protocols_overlap(protocols: typing.Any, expected: bool) -> None:
    fields = dict(zip(("protocol_version", "oldest_protocol"), protocols, strict=False))
    assert m.speaks(m.Hello(1, 2, "native", "", **fields)) is expected


def test_secrets_are_in_no_repr_and_no_error() -> None:
    secret = b"S3CRET-ROOT"
    assert "S3CRET" not in repr(m.UseKeys([m.Epoch(1, 0.0, secret)], 1))
    assert "S3CRET" not in repr(m.KeyedChain("a", b"", secret))
    with pytest.raises(m.MessageError) as caught:
        m.decode_order(b'{"kind":"UseKeys","epochs":[{"epoch":1,"created_s":0,"root":"S3CRET!"}],"seal_with":"x"}')
    assert "S3CRET" not in str(caught.value)
