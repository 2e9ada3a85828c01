"""Clients without a validated address get a bounded part of a worker, however their handshakes end.

A token validates an address once, on any worker of the node, and no network uses up the share of the others.
"""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.http.requests import Address
from velocity_edge.keys import rotation
from velocity_edge.keys.ring import ADDRESS_TOKEN, KeyRing, cid_configs
from velocity_edge.keys.table import EpochTable, first_table
from velocity_edge.quic.admission import AdmissionControl
from velocity_edge.quic.admission_rules import INVALID_TOKEN, Proof, share_of_prefix
from velocity_edge.quic.datagrams import Accept, Admission, Ignore, Initial, Refuse, Retry
from velocity_edge.quic.half_open import FLIGHT_CPU_US, MAX_CPU_US, HalfOpen, prefix_of
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.single_use import UsedTokens
from velocity_edge.quic.tokens import AddressTokens
from velocity_edge.wire.cid_codec import CidCodec
from velocity_edge.wire.counters import VERDICTS

PEER, OTHER = (b"\x7f\0\0\1", 4433), (b"\x7f\0\0\2", 4433)
TABLE = first_table(b"r" * 32, 0.0)
LIMITS = Limits(max_connections=100, retry_threshold=10, max_half_open=20)
NODE, WORKER = 9, 17
CHOSEN = b"\xc0chosen by the client"[:12]


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Door(AdmissionControl):
    """Admission at the clock of its wall time, when nothing else is said."""

    def __init__(self, worker_id: int, clock: Clock, table: EpochTable, limits: Limits, used: UsedTokens) -> None:
        super().__init__(table, NODE, worker_id, limits, used, clock)
        self.clock = clock

    def knock(self, first: Initial) -> Admission:
        return self.admit(first, int(self.clock.now_s * 1e9))


def control(
    worker_id: int = WORKER,
    clock: Clock | None = None,
    table: EpochTable = TABLE,
    limits: Limits = LIMITS,
    used: UsedTokens | None = None,
) -> Door:
    return Door(worker_id, clock or Clock(), table, limits, used or UsedTokens.private(0.0))


def initial(**changes: object) -> Initial:
    first = Initial(
        version=1, dcid=CHOSEN, scid=b"", token=b"", peer=PEER, must_retry=False, connections=0, half_open=0
    )
    return dataclasses.replace(first, **changes)  # type: ignore[arg-type]


def test_a_quiet_worker_accepts() -> None:
    assert control().knock(initial()) == Accept()


@pytest.mark.parametrize("why", [{"must_retry": True}, {"half_open": 10}, {"half_open": 19}])
def test_retry_and_back(why: dict[str, object]) -> None:
    retry = control().knock(initial(**why))
    assert isinstance(retry, Retry)
    owner = CidCodec(cid_configs(TABLE)).open(retry.scid)
    assert owner is not None
    assert (owner.node_id, owner.worker_id) == (NODE, WORKER)
    back = initial(dcid=retry.scid, token=retry.token, **why)
    assert control().knock(back) == Accept(original_dcid=CHOSEN, address_validated=True)


class TestRetryToken:
    """It is valid for one address and port, for one id, for 10 seconds, on this node."""

    def back(self, clock: Clock | None = None, **changes: object) -> object:
        clock = clock or Clock()
        retry = control(clock=Clock()).knock(initial(must_retry=True))
        assert isinstance(retry, Retry)
        return control(clock=clock).knock(initial(**{"dcid": retry.scid, "token": retry.token} | changes))

    def test_other_address_port_or_id(self) -> None:
        other_id = CidCodec(cid_configs(TABLE)).issue(NODE, WORKER)
        for changes in ({"peer": OTHER}, {"peer": (PEER[0], 4434)}, {"dcid": other_id}, {"dcid": CHOSEN}):
            answer = self.back(**changes)
            assert isinstance(answer, Refuse), changes
            assert answer.error_code == INVALID_TOKEN

    @pytest.mark.parametrize(("age_s", "accepted"), [(-4.0, True), (9.9, True), (10.1, False), (-6.0, False)])
    def test_lifetime(self, age_s: float, accepted: bool) -> None:
        clock = Clock()
        clock.now_s += age_s
        assert isinstance(self.back(clock), Accept if accepted else Refuse)

    def test_an_invalid_one_closes_the_connection(self) -> None:
        assert isinstance(control().knock(initial(token=b"R" + bytes(60))), Refuse)

    def test_while_draining(self) -> None:
        retry = control().knock(initial(must_retry=True))
        assert isinstance(retry, Retry)
        draining = control()
        draining.accepting = False
        assert draining.knock(initial()) == Ignore("verdict_dropped_not_accepting")
        assert isinstance(draining.knock(initial(dcid=retry.scid, token=retry.token)), Accept)

    def test_a_new_token_is_not_admitted_while_draining(self) -> None:
        """Steering has another worker for it; only a client that comes back from this worker's Retry is admitted."""
        used = UsedTokens.private(0.0)
        token = control().address_token(PEER)
        draining = control(used=used)
        draining.accepting = False
        assert draining.knock(initial(token=token)) == Ignore("verdict_dropped_not_accepting")
        assert control(used=used).knock(initial(token=token)) == Accept(address_validated=True), "it was not used up"

    def test_valid_only_at_the_worker_of_its_id(self) -> None:
        retry = control().knock(initial(must_retry=True))
        assert isinstance(retry, Retry)
        back = initial(dcid=retry.scid, token=retry.token)
        assert control(WORKER + 1).knock(back) == Ignore("verdict_dropped_foreign_id")

    def test_after_a_rotation(self) -> None:
        retry = control().knock(initial(must_retry=True))
        assert isinstance(retry, Retry)
        later = control(table=rotation.switch(rotation.announce(TABLE, b"s" * 32, 1.0, 86_400.0)))
        assert isinstance(later.knock(initial(dcid=retry.scid, token=retry.token)), Accept)


class TestNewToken:
    """It avoids the Retry for a known client; an invalid one is ignored."""

    def test_another_worker_and_port(self) -> None:
        token = control().address_token(PEER)
        for load in ({"must_retry": True}, {"half_open": 15}, {"half_open": 19}):
            admitted = control(WORKER + 1).knock(initial(token=token, peer=(PEER[0], 999), **load))
            assert admitted == Accept(address_validated=True)

    def test_other_address(self) -> None:
        token = control().address_token(PEER)
        assert control().knock(initial(token=token, peer=OTHER)) == Accept()
        assert isinstance(control().knock(initial(token=token, peer=OTHER, half_open=10)), Retry)

    @pytest.mark.parametrize(("age_s", "proven"), [(86_399.0, True), (86_401.0, False)])
    def test_lifetime(self, age_s: float, proven: bool) -> None:
        clock = Clock()
        token = control(clock=Clock()).address_token(PEER)
        clock.now_s += age_s
        assert control(clock=clock).knock(initial(token=token)) == Accept(address_validated=proven)

    def test_cannot_pose_as_a_retry_token(self) -> None:
        token = control().address_token(PEER)
        assert isinstance(control().knock(initial(token=b"R" + token[1:])), Refuse)

    def test_a_retry_token_cannot_pose_as_one(self) -> None:
        retry = control().knock(initial(must_retry=True))
        assert isinstance(retry, Retry)
        assert control().knock(initial(token=b"N" + retry.token[1:])) == Accept()

    def test_sizes(self) -> None:
        assert len(control().address_token(PEER)) == 41
        retry = control().knock(initial(must_retry=True))
        assert isinstance(retry, Retry)
        assert len(retry.token) == 44 + len(CHOSEN) + 20


class TestLimits:
    @pytest.mark.parametrize("limits", [LIMITS, Limits(retry_threshold=10_000, max_half_open=20)])
    def test_a_new_client_gets_a_retry_at_max_half_open(self, limits: Limits) -> None:
        token = control().address_token(PEER)
        for each in ({}, {"must_retry": True}, {"token": token}):
            assert isinstance(control(limits=limits).knock(initial(half_open=20, **each)), Retry)

    def test_a_retry_token_is_not_admitted_at_max_half_open(self) -> None:
        door = control()
        retry = door.knock(initial(must_retry=True))
        assert isinstance(retry, Retry)
        back = initial(dcid=retry.scid, token=retry.token)
        assert door.knock(dataclasses.replace(back, half_open=20)) == Ignore("verdict_dropped_half_open")
        assert isinstance(door.knock(back), Accept), "when there is room again"

    def test_max_connections_bounds_all_clients(self) -> None:
        token = control().address_token(PEER)
        for each in (b"", token):
            assert control().knock(initial(connections=100, token=each)) == Ignore("verdict_dropped_connections")

    def test_an_id_of_this_node_without_a_retry_token(self) -> None:
        ours = CidCodec(cid_configs(TABLE)).issue(NODE, WORKER)
        for token in (b"", control().address_token(PEER)):
            assert control().knock(initial(dcid=ours, token=token)) == Ignore("verdict_dropped_foreign_id")


@given(
    st.binary(max_size=120)
    | st.sampled_from([b"R", b"N"]).flatmap(lambda k: st.binary(max_size=90).map(lambda t: k + t)),
    st.binary(min_size=8, max_size=20),
    st.booleans(),
    st.integers(0, 120),
    st.integers(0, 30),
    st.booleans(),
)
def test_an_invented_token_validates_no_address(
    token: bytes, dcid: bytes, must_retry: bool, connections: int, half_open: int, accepting: bool
) -> None:
    door = control()
    door.accepting = accepting
    answer = door.knock(
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
    tokens = AddressTokens(KeyRing(TABLE, ADDRESS_TOKEN))
    first, second = tokens.new_token(PEER, 5.0), tokens.new_token(PEER, 5.0)
    assert first != second
    assert tokens.check(first, PEER, b"", 6.0) == tokens.check(second, PEER, b"", 6.0) == Proof()


def proven(door: Door, peer: Address) -> Admission:
    """Come back from a Retry."""
    retry = door.knock(initial(peer=peer, must_retry=True))
    assert isinstance(retry, Retry)
    return door.knock(initial(peer=peer, dcid=retry.scid, token=retry.token))


def network(number: int, host: int = 1) -> Address:
    return (bytes((198, number >> 8, number & 0xFF, host)), 4433)


class TestOnce:
    """RFC 9000 section 8.1.4: a NEW_TOKEN token that was used validates no address."""

    def test_on_any_worker_of_the_node(self) -> None:
        used = UsedTokens.private(0.0)
        here, there = control(used=used), control(WORKER + 1, used=used)
        token, other = here.address_token(PEER), here.address_token(PEER)
        assert there.knock(initial(token=token)) == Accept(address_validated=True)
        for door in (here, there):
            assert door.knock(initial(token=token)) == Accept()
            assert isinstance(door.knock(initial(token=token, half_open=10)), Retry)
            assert door.counters["tokens_seen_again"] == 2
        assert here.knock(initial(token=other)) == Accept(address_validated=True)

    def test_a_wrong_address_does_not_use_it_up(self) -> None:
        door = control()
        token = door.address_token(PEER)
        assert door.knock(initial(token=token, peer=OTHER)) == Accept()
        assert door.knock(initial(token=token)) == Accept(address_validated=True)
        assert door.counters["tokens_seen_again"] == 0


class TestFailedHandshakesCount:
    """They count until their timeout; completed ones do not count."""

    def test_until_its_time_is_over(self) -> None:
        clock = Clock()
        door = control(clock=clock)
        answers = [door.knock(initial(peer=network(n))) for n in range(50)]
        assert [type(answer) for answer in answers] == [Accept] * 10 + [Retry] * 40
        clock.now_s += LIMITS.handshake_timeout_s - 0.001
        assert isinstance(door.knock(initial()), Retry)
        clock.now_s += 0.001
        assert door.knock(initial()) == Accept()

    def test_a_completed_handshake_makes_room_at_once(self) -> None:
        door = control()
        for n in range(500):
            answer = door.knock(initial(peer=network(n)))
            assert isinstance(answer, Accept)
            assert answer.opening is not None
            door.half_open.complete(answer.opening)
        assert (len(door.half_open), door.half_open.prefixes) == (0, 0)

    def test_an_expensive_handshake_counts_as_several(self) -> None:
        door = control()
        first = door.knock(initial())
        assert isinstance(first, Accept)
        assert first.opening is not None
        door.half_open.spend(first.opening, 4 * FLIGHT_CPU_US)
        answers = [door.knock(initial(peer=network(n))) for n in range(20)]
        # 4, and those whose hellos are yet to come are taken to cost the same: 4 + 4 + 4.
        assert [type(answer) for answer in answers[:4]] == [Accept, Accept, Retry, Retry]

    def test_a_pause_of_the_process_counts_for_a_bounded_cost(self) -> None:
        counted = HalfOpen()
        opening = counted.add(b"abc", 10)
        counted.spend(opening, 1_000_000)
        assert counted.load(b"abc", 0).of_prefix == MAX_CPU_US // FLIGHT_CPU_US


class TestShareOfOneNetwork:
    def test_it_gets_a_tenth_and_leaves_room_for_the_others(self) -> None:
        limits = Limits()
        door = control(limits=limits)
        answers = [proven(door, network(7, host=n % 256)) for n in range(600)]
        held = sum(isinstance(answer, Accept) for answer in answers)
        assert held == 207
        assert set(map(type, answers)) == {Accept, Ignore}
        assert answers[-1] == Ignore("verdict_dropped_prefix")
        assert isinstance(proven(door, network(8)), Accept)

    def test_its_new_tokens_are_ignored_then(self) -> None:
        door = control(limits=Limits(retry_threshold=200))
        tokens = [door.address_token(network(7)) for _ in range(300)]
        answers = [door.knock(initial(token=token, peer=network(7))) for token in tokens]
        assert [type(a) for a in answers] == [Accept] * 207 + [Retry] * 93
        assert door.counters["tokens_not_honoured"] == 93

    def test_a_hundred_networks_leave_room_for_another(self) -> None:
        door = control(limits=Limits())
        for n in range(100):
            while isinstance(proven(door, network(n)), Accept):
                pass
        assert 2048 - door.half_open.load(b"", 0).total >= 128
        assert isinstance(proven(door, network(1000)), Accept)
        assert door.half_open.prefixes == 101
        assert len(door.half_open) <= 2048

    def test_a_spoofed_address_does_not_use_up_the_share_of_its_network(self) -> None:
        door = control(limits=Limits())
        for _ in range(1000):
            door.knock(initial(peer=network(7)))
        assert isinstance(proven(door, network(7)), Accept)

    def test_what_counts_as_one_network(self) -> None:
        v6 = bytes.fromhex("20010db8000011")
        assert prefix_of(v6 + bytes(9)) == prefix_of(v6 + bytes([0xFF] * 9)) == v6
        assert (
            prefix_of(bytes((192, 0, 2, 1))) == prefix_of(bytes((192, 0, 2, 254))) != prefix_of(bytes((192, 0, 3, 1)))
        )

    @given(st.integers(0, 5000), st.integers(0, 3000))
    def test_a_share_fits_in_what_is_free(self, total: int, most: int) -> None:
        share = share_of_prefix(total, most)
        assert (share > 0) == (total < most)
        assert share <= max(0, most - total)
        assert share <= -(-most // 8)


#: What a client does: how long it waits, what its hello costs, whether it finishes, and what it validates.
CLIENTS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 0, 50, 700, 2_500]),
        st.integers(0, 3_000),
        st.sampled_from(["fails", "fails", "fails", "half a hello", "completes"]),
        st.integers(0, 3),
    ),
    max_size=150,
)


@given(CLIENTS)
def test_the_work_for_unvalidated_clients_is_bounded_in_any_window(
    history: list[tuple[int, int, str, int]],
) -> None:
    """The window is as long as a handshake may take. Completed handshakes do not count."""
    clock = Clock()
    limits = Limits(retry_threshold=12, max_half_open=40, handshake_timeout_s=5.0)
    door = control(clock=clock, limits=limits)
    unproven: list[tuple[float, int]] = []
    by_network: dict[int, list[float]] = {n: [] for n in range(4)}
    for pause_ms, cost_us, end, proves in history:
        clock.now_s += pause_ms / 1000
        peer = network(proves)
        answer = proven(door, peer) if proves else door.knock(initial(peer=peer))
        if not isinstance(answer, Accept):
            continue
        assert answer.opening is not None
        spent = 0 if end == "half a hello" else cost_us
        door.half_open.spend(answer.opening, spent)
        if end == "completes":
            door.half_open.complete(answer.opening)
        elif proves:
            by_network[proves].append(clock.now_s)
        else:
            unproven.append((clock.now_s, max(spent, FLIGHT_CPU_US)))
        since_s = clock.now_s - limits.handshake_timeout_s
        unproven = [(at_s, us) for at_s, us in unproven if at_s > since_s]
        assert sum(us for _, us in unproven) <= limits.retry_threshold * FLIGHT_CPU_US + 3_000
        for times in by_network.values():
            assert sum(at_s > since_s for at_s in times) <= share_of_prefix(0, limits.max_half_open)
        counted = door.half_open.load(b"", int(clock.now_s * 1e9))
        assert counted.total <= limits.max_half_open + MAX_CPU_US // FLIGHT_CPU_US
        assert len(door.half_open) <= limits.max_half_open
