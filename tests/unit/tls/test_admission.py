"""New connections cost nothing before their address is proven, once there are many; tokens prove it on every worker."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge import keys
from velocity_edge.cid import CidCodec
from velocity_edge.counters import VERDICTS
from velocity_edge.keys import KeyRing
from velocity_edge.quic.admission import INVALID_TOKEN, AdmissionControl
from velocity_edge.quic.engine import Accept, Ignore, Initial, Refuse, Retry
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.tokens import AddressTokens, Proof

PEER, OTHER = (b"\x7f\0\0\1", 4433), (b"\x7f\0\0\2", 4433)
TABLE = keys.first_table(b"r" * 32, 0.0)
LIMITS = Limits(max_connections=100, retry_threshold=10, max_half_open=20)
NODE, WORKER = 9, 17
CHOSEN = b"\xc0chosen by the client"[:12]


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def control(worker_id: int = WORKER, clock: Clock | None = None, table: keys.EpochTable = TABLE) -> AdmissionControl:
    return AdmissionControl(table, NODE, worker_id, LIMITS, clock or Clock())


def initial(**changes: object) -> Initial:
    first = Initial(
        version=1, dcid=CHOSEN, scid=b"", token=b"", peer=PEER, must_retry=False, connections=0, half_open=0
    )
    return dataclasses.replace(first, **changes)  # type: ignore[arg-type]


def test_a_quiet_worker_accepts() -> None:
    assert control().admit(initial()) == Accept()


@pytest.mark.parametrize("why", [{"must_retry": True}, {"half_open": 10}, {"half_open": 19}])
def test_retry_and_back(why: dict[str, object]) -> None:
    retry = control().admit(initial(**why))
    assert isinstance(retry, Retry)
    owner = CidCodec(keys.cid_configs(TABLE)).open(retry.scid)
    assert owner is not None
    assert (owner.node_id, owner.worker_id) == (NODE, WORKER)
    back = initial(dcid=retry.scid, token=retry.token, **why)
    assert control().admit(back) == Accept(original_dcid=CHOSEN, address_validated=True)


class TestRetryToken:
    """It is worth something to one address and port, for one id, for 10 seconds, on this node."""

    def back(self, clock: Clock | None = None, **changes: object) -> object:
        clock = clock or Clock()
        retry = control(clock=Clock()).admit(initial(must_retry=True))
        assert isinstance(retry, Retry)
        return control(clock=clock).admit(initial(**{"dcid": retry.scid, "token": retry.token} | changes))

    def test_other_address_port_or_id(self) -> None:
        other_id = CidCodec(keys.cid_configs(TABLE)).issue(NODE, WORKER)
        for changes in ({"peer": OTHER}, {"peer": (PEER[0], 4434)}, {"dcid": other_id}, {"dcid": CHOSEN}):
            answer = self.back(**changes)
            assert isinstance(answer, Refuse), changes
            assert answer.error_code == INVALID_TOKEN

    @pytest.mark.parametrize(("age_s", "accepted"), [(-4.0, True), (9.9, True), (10.1, False), (-6.0, False)])
    def test_lifetime(self, age_s: float, accepted: bool) -> None:
        clock = Clock()
        clock.now_s += age_s
        assert isinstance(self.back(clock), Accept if accepted else Refuse)

    def test_a_broken_one_closes(self) -> None:
        assert isinstance(control().admit(initial(token=b"R" + bytes(60))), Refuse)

    def test_while_draining(self) -> None:
        retry = control().admit(initial(must_retry=True))
        assert isinstance(retry, Retry)
        draining = control()
        draining.accepting = False
        assert draining.admit(initial()) == Ignore("verdict_dropped_not_accepting")
        assert isinstance(draining.admit(initial(dcid=retry.scid, token=retry.token)), Accept)

    def test_only_at_the_worker_that_its_id_names(self) -> None:
        retry = control().admit(initial(must_retry=True))
        assert isinstance(retry, Retry)
        back = initial(dcid=retry.scid, token=retry.token)
        assert control(WORKER + 1).admit(back) == Ignore("verdict_dropped_foreign_id")

    def test_after_a_rotation(self) -> None:
        retry = control().admit(initial(must_retry=True))
        assert isinstance(retry, Retry)
        later = control(table=keys.switch(keys.announce(TABLE, b"s" * 32, 1.0, 86_400.0)))
        assert isinstance(later.admit(initial(dcid=retry.scid, token=retry.token)), Accept)


class TestNewToken:
    """It saves a known client the Retry; a bad one is as good as none."""

    def test_another_worker_and_port(self) -> None:
        token = control().address_token(PEER)
        elsewhere = control(WORKER + 1)
        for load in ({"must_retry": True}, {"half_open": 15}, {"half_open": 50}):
            admitted = elsewhere.admit(initial(token=token, peer=(PEER[0], 999), **load))
            assert admitted == Accept(address_validated=True)

    def test_other_address(self) -> None:
        token = control().address_token(PEER)
        assert control().admit(initial(token=token, peer=OTHER)) == Accept()
        assert isinstance(control().admit(initial(token=token, peer=OTHER, half_open=10)), Retry)

    @pytest.mark.parametrize(("age_s", "proven"), [(86_399.0, True), (86_401.0, False)])
    def test_lifetime(self, age_s: float, proven: bool) -> None:
        clock = Clock()
        token = control(clock=Clock()).address_token(PEER)
        clock.now_s += age_s
        assert control(clock=clock).admit(initial(token=token)) == Accept(address_validated=proven)

    def test_cannot_pose_as_a_retry_token(self) -> None:
        token = control().address_token(PEER)
        assert isinstance(control().admit(initial(token=b"R" + token[1:])), Refuse)

    def test_a_retry_token_cannot_pose_as_one(self) -> None:
        retry = control().admit(initial(must_retry=True))
        assert isinstance(retry, Retry)
        assert control().admit(initial(token=b"N" + retry.token[1:])) == Accept()

    def test_sizes(self) -> None:
        assert len(control().address_token(PEER)) == 41
        retry = control().admit(initial(must_retry=True))
        assert isinstance(retry, Retry)
        assert len(retry.token) == 44 + len(CHOSEN) + 20


class TestLimits:
    def test_half_open(self) -> None:
        assert control().admit(initial(half_open=20)) == Ignore("verdict_dropped_half_open")
        assert control().admit(initial(half_open=20, must_retry=True)) == Ignore("verdict_dropped_half_open")

    def test_connections_bound_everybody(self) -> None:
        token = control().address_token(PEER)
        for each in (b"", token):
            assert control().admit(initial(connections=100, token=each)) == Ignore("verdict_dropped_connections")

    def test_an_id_of_ours_without_a_retry_token(self) -> None:
        ours = CidCodec(keys.cid_configs(TABLE)).issue(NODE, WORKER)
        for token in (b"", control().address_token(PEER)):
            assert control().admit(initial(dcid=ours, token=token)) == Ignore("verdict_dropped_foreign_id")


@given(
    st.binary(max_size=120)
    | st.sampled_from([b"R", b"N"]).flatmap(lambda k: st.binary(max_size=90).map(lambda t: k + t)),
    st.binary(min_size=8, max_size=20),
    st.booleans(),
    st.integers(0, 120),
    st.integers(0, 30),
    st.booleans(),
)
def test_nothing_made_up_proves_an_address(
    token: bytes, dcid: bytes, must_retry: bool, connections: int, half_open: int, accepting: bool
) -> None:
    door = control()
    door.accepting = accepting
    answer = door.admit(
        initial(token=token, dcid=dcid, must_retry=must_retry, connections=connections, half_open=half_open)
    )
    if isinstance(answer, Accept):
        assert answer == Accept()
        assert accepting
        assert not must_retry
        assert half_open < LIMITS.retry_threshold
        assert connections < LIMITS.max_connections
    if isinstance(answer, Ignore):
        assert answer.verdict in VERDICTS


def test_tokens_do_not_depend_on_each_other() -> None:
    tokens = AddressTokens(KeyRing(TABLE, keys.ADDRESS_TOKEN))
    first, second = tokens.new_token(PEER, 5.0), tokens.new_token(PEER, 5.0)
    assert first != second
    assert tokens.check(first, PEER, b"", 6.0) == tokens.check(second, PEER, b"", 6.0) == Proof()
