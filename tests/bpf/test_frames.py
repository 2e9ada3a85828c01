"""The shield parses tags, options and extension headers as far as the stack would, and no header chain evades a rule.

tests/netns/test_bypass.py tests which of these frames the stack delivers, and that none of them passes the shield.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bpf import abi, kernel, measure
from tests.support.headers import DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING, UDP, extension, follow, fragment
from tests.support.packets import HANDSHAKE, INITIAL, ZERO_RTT, ethernet, ipv4, ipv6, long, random_dcid, short, udp
from tests.support.shield import CONFIG, PORT, WORKER, Shield
from velocity_edge.wire.cid_codec import CidCodec

pytestmark = pytest.mark.root

Q, AD = 0x8100, 0x88A8
OURS4, OTHER4 = "198.51.100.1", "198.51.100.2"
OURS6, OTHER6 = "2001:db8:1::1", "2001:db8:1::2"
DENIED4, DENIED6 = "203.0.113.7", "2001:db8:77::7"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shield]:
    shield = Shield(tmp_path_factory.mktemp("cache"))
    for name, address in (("deny4", DENIED4), ("deny6", DENIED6)):
        packed = ip_address(address).packed
        kernel.update(shield.maps[name], struct.pack("=I", 8 * len(packed)) + packed, struct.pack("=I", 1))
    yield shield
    shield.close()


@pytest.fixture
def shield(loaded: Shield) -> Shield:
    loaded.reset()
    loaded.settings.secret.octets[:] = os.urandom(16)
    return loaded


def spend(shield: Shield, *, per_s: float = 0.001, burst: int = 0) -> None:
    """As KernelSteering.limits: new connections per second for a prefix."""
    for rate in shield.settings.rate:
        rate.interval_ns = int(1e9 / per_s)
        rate.window_ns = burst * rate.interval_ns


# --- every chain, against the twin ------------------------------------------------------------------------------------


@st.composite
def extensions(draw: st.DrawFn) -> tuple[int, bytes, bool]:
    """Up to five headers: the number of the first, all of them, and whether UDP may follow."""
    numbers = draw(
        st.lists(st.sampled_from([HOP_BY_HOP, ROUTING, DESTINATION, FRAGMENT, FRAGMENT, 50, 51, 135]), max_size=5)
    )
    last = draw(st.sampled_from([UDP] * 8 + [6, 58, 59, 41]))
    chain = b""
    for number, following in itertools.pairwise([*numbers, last]):
        if number == FRAGMENT:
            chain += fragment(following, offset=draw(st.sampled_from([0, 0, 0, 8, 1208])), more=draw(st.booleans()))
        else:
            words = draw(st.sampled_from([0, 0, 1, 5, 130]))
            chain += extension(following, words=words, routing_type=4 if number == ROUTING else None)
    return [*numbers, last][0], chain, last == UDP


@st.composite
def wrapped(draw: st.DrawFn) -> bytes:
    """A short packet for worker 7 in tags, options, extension headers and fragments; lengths sometimes wrong."""
    tag = st.tuples(st.sampled_from([Q, AD]), st.sampled_from([0, 0, 0, 1, 0xF000, 4095]))
    tags = draw(st.lists(tag, max_size=10)) if draw(st.integers(0, 3)) == 0 else []
    datagram = udp(short(_CID), destination=draw(st.sampled_from([PORT, PORT, PORT, 53])))
    if draw(st.booleans()):
        packet = ipv4(
            datagram,
            source=draw(st.sampled_from(["192.0.2.1", DENIED4])),
            destination=draw(st.sampled_from([OURS4, OURS4, OTHER4])),
            protocol=draw(st.sampled_from([UDP, UDP, UDP, UDP, 6, 51])),
            fragment=draw(st.sampled_from([0, 0x4000, 0x8000, 0x2000, 0x2000, 0x6000, 1, 0x2001, 0x1000, 0x1FFF])),
            options=bytes(4 * draw(st.integers(0, 10))),
            length=draw(st.sampled_from([None, None, None, None, None, 0, 19, 27, 28, 40])),
        )
        if draw(st.integers(0, 9)) == 0:
            packet = bytes([0x40 | draw(st.integers(0, 5))]) + packet[1:]
        protocol = 0x0800
    else:
        first, chain, _ = draw(extensions())
        length = draw(st.sampled_from([None, None, None, 0, len(chain), len(chain) + 7, len(chain) + 8, 7]))
        packet = ipv6(
            chain + datagram,
            source=draw(st.sampled_from(["2001:db8::1", DENIED6])),
            destination=draw(st.sampled_from([OURS6, OURS6, OTHER6])),
            next_header=first,
            length=length,
        )
        protocol = 0x86DD
    frame = ethernet(packet, protocol=protocol, tags=tuple(tags))
    end = draw(st.one_of(st.just(len(frame)), st.integers(14, len(frame))))
    assume(end < 3400)  # what BPF_PROG_TEST_RUN accepts as linear data
    return frame[:end]


_CID = CidCodec([CONFIG]).issue(1, WORKER)


def expected(frame: bytes, deny: bool) -> str:
    """The rules of judge() in bpf/xdp.c for frames of `wrapped`."""
    found = follow(frame)
    if found.kind == "other":
        return "passed_not_ours"
    if found.kind == "tags":
        return "dropped_header_chain"
    port, length = PORT, 0  # where no port is known, the address decides
    if found.kind in ("whole", "first"):
        port, length = struct.unpack_from("!HH", frame, found.udp + 2)
    if found.destination not in (ip_address(OURS4).packed, ip_address(OURS6).packed) or port != PORT:
        return "passed_not_ours"
    if deny and found.source in (ip_address(DENIED4).packed, ip_address(DENIED6).packed):
        return "dropped_denied"
    if found.kind != "whole":
        return {
            "chain": "dropped_header_chain", "first": "dropped_fragment", "rest": "passed_fragment",
        }[found.kind]  # fmt: skip
    if length > found.left or len(frame) < found.udp + 8 + 21:
        return "dropped_malformed"
    return "passed_known_worker"


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=wrapped(), deny=st.booleans())
def test_any_header_chain_gets_the_verdict_of_the_twin(shield: Shield, frame: bytes, deny: bool) -> None:
    shield.listen(OURS4, abi.FAMILY_IPV4, index=0)
    shield.listen(OURS6, abi.FAMILY_IPV6, index=1)
    shield.settings.deny = deny
    assert shield.run(frame) == (expected(frame, deny), frame)


# --- a parsed datagram is judged like a bare one ----------------------------------------------------------------------


def chains() -> Iterator[tuple[int, ...]]:
    """Every order of up to three headers that the stack walks, an atomic fragment (RFC 6946) among them."""
    for count in (1, 2, 3):
        yield from itertools.product((HOP_BY_HOP, ROUTING, DESTINATION, FRAGMENT), repeat=count)


def behind(chain: tuple[int, ...], payload: bytes, *, words: int = 0) -> bytes:
    """An IPv6 packet with UDP behind extension headers."""
    head = b""
    for number, following in itertools.pairwise([*chain, UDP]):
        if number == FRAGMENT:
            head += fragment(following)
        else:
            head += extension(following, words=words, routing_type=4 if number == ROUTING else None)
    return ipv6(head + payload, next_header=chain[0])


Wrap = Callable[[bytes], bytes]
FOLLOWED: dict[str, Wrap] = {
    "IPv4": lambda datagram: ethernet(ipv4(datagram)),
    "IPv4, 40 bytes of options": lambda datagram: ethernet(ipv4(datagram, options=b"\x01" * 40)),
    "IPv4, evil bit": lambda datagram: ethernet(ipv4(datagram, fragment=0x8000)),
    "IPv6": lambda datagram: ethernet(ipv6(datagram)),
    "IPv6, long headers": lambda datagram: ethernet(behind((HOP_BY_HOP, ROUTING, DESTINATION), datagram, words=80)),
    "IPv6, no length": lambda datagram: ethernet(ipv6(extension(UDP) + datagram, next_header=HOP_BY_HOP, length=0)),
    "two VLANs": lambda datagram: ethernet(ipv4(datagram), protocol=0x0800, tags=((AD, 1), (Q, 2))),
    "two VLANs and six priorities": lambda datagram: ethernet(
        behind((DESTINATION,), datagram), protocol=0x86DD, tags=((Q, 0), (AD, 1), *((Q, 0xE000),) * 4, (Q, 2), (Q, 0))
    ),
    **{
        "-".join(map(str, chain)): lambda datagram, chain=chain: ethernet(behind(chain, datagram))  # type: ignore[misc]
        for chain in chains()
    },
}


@pytest.mark.parametrize("wrap", FOLLOWED.values(), ids=FOLLOWED)
def test_every_rule_applies_behind_every_header_chain(shield: Shield, wrap: Wrap) -> None:
    """Known workers, the limiter, attack mode, the deny list; other ports pass."""

    def verdict(datagram: bytes, *, port: int = PORT, source: int = 40000) -> str:
        return shield.run(wrap(udp(datagram, destination=port, source=source)))[0]

    new = long(INITIAL, random_dcid())
    assert verdict(short(shield.cid())) == "passed_known_worker"
    assert verdict(short(shield.cid()), port=53) == "passed_not_ours"
    assert verdict(short(random_dcid(20))) == "dropped_undecodable"
    assert verdict(new) == "passed_initial"
    assert verdict(new, source=53) == "dropped_source_port"
    spend(shield, burst=1)
    assert [verdict(new) for _ in range(3)] == ["passed_initial", "dropped_initial_limit", "dropped_initial_limit"]
    assert verdict(new, port=53) == "passed_not_ours"
    shield.settings.slip = 1
    assert verdict(new) == "passed_must_retry"
    shield.settings.attack = 1
    assert verdict(long(ZERO_RTT, random_dcid(), length=400)) == "dropped_attack"
    with denied(shield):
        for datagram in (new, short(shield.cid()), b"no QUIC"):
            assert verdict(datagram) == verdict(datagram, source=53) == "dropped_denied"
            assert verdict(datagram, port=53) == "passed_not_ours"


@contextmanager
def denied(shield: Shield) -> Iterator[None]:
    """The sources of tests/support/packets.py are on the deny list."""
    keys = {"deny4": struct.pack("=I4s", 32, ip_address("192.0.2.1").packed)}
    keys["deny6"] = struct.pack("=I16s", 128, ip_address("2001:db8::1").packed)
    for name, key in keys.items():
        kernel.update(shield.maps[name], key, struct.pack("=I", 1))
    shield.settings.deny = 1
    yield
    shield.settings.deny = 0
    for name, key in keys.items():
        kernel.delete(shield.maps[name], key)


# --- what is not parsed -----------------------------------------------------------------------------------------------


def portless() -> dict[str, tuple[str, Callable[[bytes], bytes]]]:
    """Name -> (verdict, UDP datagram -> frame) of frames that cannot become a datagram for us, or hide its port."""
    chain, first, rest, not_ours = "dropped_header_chain", "dropped_fragment", "passed_fragment", "passed_not_ours"

    def six(*parts: bytes, next_header: int, length: int | None = None) -> bytes:
        return ethernet(ipv6(b"".join(parts), next_header=next_header, length=length))

    return {
        "IPv4 first fragment": (first, lambda d: ethernet(ipv4(d[:-8], fragment=0x2000))),
        "IPv4 first fragment that says not to": (first, lambda d: ethernet(ipv4(d[:-8], fragment=0x6000))),
        "IPv4 first fragment, options": (first, lambda d: ethernet(ipv4(d[:-8], fragment=0x2000, options=bytes(40)))),
        "IPv4 first fragment, the UDP header alone": (first, lambda d: ethernet(ipv4(d[:8], fragment=0x2000))),
        "IPv4 first fragment, in a VLAN": (
            first,
            lambda d: ethernet(ipv4(d[:8], fragment=0x2000), tags=((Q, 0), (Q, 1)), protocol=0x0800),
        ),
        # The stack refuses these: fragments come in units of 8 bytes.
        "IPv4 first fragment, less than UDP's": (not_ours, lambda d: ethernet(ipv4(d[:7], fragment=0x2000))),
        "IPv4 second fragment": (rest, lambda d: ethernet(ipv4(d[8:16], fragment=0x2001))),
        "IPv4 last fragment": (rest, lambda d: ethernet(ipv4(d[-8:], fragment=150))),
        "IPv4 fragment from 32 KiB on": (rest, lambda d: ethernet(ipv4(d[-8:], fragment=0x1000))),
        "IPv4 fragment of one byte": (rest, lambda d: ethernet(ipv4(d[-1:], fragment=1))),
        "IPv4 last fragment of TCP": (not_ours, lambda d: ethernet(ipv4(d[-8:], protocol=6, fragment=150))),
        "IPv6 first fragment": (first, lambda d: six(fragment(UDP, more=True), d[:-8], next_header=FRAGMENT)),
        "IPv6 first fragment, the UDP header alone": (
            first,
            lambda d: six(fragment(UDP, more=True), d[:8], next_header=FRAGMENT),
        ),
        "IPv6 first fragment between two headers": (
            first,
            lambda d: six(
                extension(FRAGMENT), fragment(DESTINATION, more=True), extension(UDP), d[:8], next_header=HOP_BY_HOP
            ),
        ),
        "IPv6 first fragment in an atomic one": (
            first,
            lambda d: six(fragment(FRAGMENT), fragment(UDP, more=True), d[:8], next_header=FRAGMENT),
        ),
        "IPv6 last fragment": (rest, lambda d: six(fragment(UDP, offset=1200), d[-8:], next_header=FRAGMENT)),
        "IPv6 last fragment behind options": (
            rest,
            lambda d: six(extension(FRAGMENT), fragment(UDP, offset=8), d[8:], next_header=DESTINATION),
        ),
        # RFC 7112: when the headers are split between fragments, no fragment has the whole chain and the port.
        "IPv6 first fragment, UDP in the next": (
            chain,
            lambda d: six(fragment(DESTINATION, more=True), extension(UDP), next_header=FRAGMENT),
        ),
        "IPv6 first fragment, half a UDP header": (
            chain,
            lambda d: six(fragment(UDP, more=True), d[:4], next_header=FRAGMENT),
        ),
        "IPv6 first fragment, and another port behind its end": (
            chain,
            lambda d: six(
                fragment(DESTINATION, more=True),
                extension(UDP),
                udp(d[8:], destination=53),
                next_header=FRAGMENT,
                length=16,
            ),
        ),
        "IPv6 header that goes beyond the packet": (
            chain,
            lambda d: six(extension(UDP, words=1)[:8], d[:-8], next_header=DESTINATION, length=15),
        ),
        "IPv6 options alone": (chain, lambda d: six(extension(UDP), next_header=HOP_BY_HOP)),
        "IPv6, four headers": (chain, lambda d: ethernet(behind((HOP_BY_HOP,) + (DESTINATION,) * 3, d))),
        "IPv6, ten headers": (chain, lambda d: ethernet(behind((DESTINATION,) * 10, d))),
        "nine tags": (
            chain,
            lambda d: ethernet(ipv4(d), protocol=0x0800, tags=((Q, 0),) * 9),
        ),
        # These reach a UDP socket only when an administrator configured a tunnel or the like.
        "three VLANs": (not_ours, lambda d: ethernet(ipv4(d), protocol=0x0800, tags=((AD, 1), (Q, 2), (Q, 3)))),
        "IPv4 in IPv6": (not_ours, lambda d: six(ipv4(d), next_header=4)),
        "IPv6 in IPv6": (not_ours, lambda d: six(extension(41), ipv6(d), next_header=DESTINATION)),
        "IPv6 authentication header": (not_ours, lambda d: six(bytes((UDP, 1)) + bytes(14), d, next_header=51)),
        "IPv6 TCP behind options": (not_ours, lambda d: six(extension(6), d, next_header=HOP_BY_HOP)),
        "IPv6 TCP behind options, a jumbogram": (
            not_ours,
            lambda d: six(bytes((6, 0, 0xC2, 4, 0, 1, 0, 0)), d, next_header=HOP_BY_HOP, length=0),
        ),
    }


PORTLESS = portless()


@pytest.mark.parametrize(("verdict", "make"), PORTLESS.values(), ids=PORTLESS)
@pytest.mark.parametrize("attack", [False, True], ids=["calm", "attack"])
def test_frames_without_a_readable_port(
    shield: Shield, attack: bool, verdict: str, make: Callable[[bytes], bytes]
) -> None:
    """All 500 get the verdict, whatever they contain; from a denied source those for other services are dropped too."""
    shield.settings.attack = attack
    spend(shield)
    inside = [long(INITIAL, random_dcid()), long(INITIAL, shield.cid()), short(shield.cid(), 1200)]
    frames = [make(udp(datagram)) for datagram in inside]
    before = shield.counters()
    assert {shield.run(frame) for frame in frames} == {(verdict, frame) for frame in frames}
    measure.run_on_frame(shield.program, frames[0], 497)
    after = shield.counters()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {verdict: 500}
    with denied(shield):
        kept = verdict == "passed_not_ours" or make is PORTLESS["nine tags"][1]
        assert {shield.run(frame)[0] for frame in frames} == {verdict if kept else "dropped_denied"}


def test_chains_and_fragments_for_other_services_pass(shield: Shield) -> None:
    """Other addresses, and other ports where one is readable: a resolver on this machine needs its fragments."""
    shield.listen("203.0.113.1", abi.FAMILY_IPV4, index=0)
    shield.listen("2001:db8:9::1", abi.FAMILY_IPV6, index=1)
    datagram = udp(long(INITIAL, random_dcid()))
    for name, (_, make) in PORTLESS.items():
        if name != "nine tags":
            assert shield.run(make(datagram))[0] == "passed_not_ours", name
    shield.reset()
    for name, (verdict, make) in PORTLESS.items():
        if verdict == "dropped_fragment":
            assert shield.run(make(udp(bytes(1200), destination=53)))[0] == "passed_not_ours", name


# --- Initials and 0-RTT with an id of ours ----------------------------------------------------------------------------


def sent(shield: Shield, datagrams: Iterable[bytes], source: Callable[[int], bytes]) -> Counter[str]:
    """Run datagrams from one source each; count the verdicts."""
    return Counter(
        shield.run(ethernet(ipv4(udp(datagram), source=source(i))))[0] for i, datagram in enumerate(datagrams)
    )


@pytest.mark.parametrize("attack", [False, True], ids=["calm", "attack"])
@pytest.mark.parametrize("kind", [INITIAL, ZERO_RTT])
def test_rate_of_one_id_is_limited_for_all_sources_together(shield: Shield, kind: int, attack: bool) -> None:
    """From 500 prefixes with one ID: 64 pass, and one more for each 16 ms that it takes. Other IDs are not affected."""
    spend(shield, per_s=1000, burst=1000)
    shield.settings.attack = attack
    datagram = long(kind, shield.cid())
    start = time.monotonic()
    verdicts = sent(shield, [datagram] * 500, lambda i: bytes((10, i // 250, i % 250, 7)))
    assert 64 <= verdicts["passed_known_worker"] <= 65 + 64 * (time.monotonic() - start)
    assert verdicts["passed_known_worker"] + verdicts["dropped_known_limit"] == 500
    assert sent(shield, [long(kind, shield.cid())], lambda i: bytes((10, 0, 0, 7))) == {"passed_known_worker": 1}
    # The ID still works for other packet types.
    assert sent(shield, [short(datagram[6:26])] * 9, lambda i: bytes(4)) == {"passed_known_worker": 9}


@pytest.mark.parametrize("attack", [False, True], ids=["calm", "attack"])
def test_many_ids_from_one_prefix_have_four_times_its_rate(shield: Shield, attack: bool) -> None:
    """Neither bucket counts what the other one refuses, nor Initials without an ID of ours, nor the other way round."""
    spend(shield, burst=10)
    shield.settings.attack = attack
    ids = [shield.cid() for _ in range(60)]
    verdicts = sent(shield, [long(INITIAL, cid) for cid in ids], lambda i: bytes((10, 0, 0, i)))
    assert verdicts == {"passed_known_worker": 40, "dropped_known_limit": 20}
    new = sent(shield, [long(INITIAL, random_dcid()) for _ in ids], lambda i: bytes((10, 0, 0, i)))
    assert new == {"passed_initial": 10, "dropped_initial_limit": 50}
    # The last 20 IDs were refused for their prefix: from another prefix each can still send 64.
    spend(shield, per_s=1e6, burst=10**6)
    rested = sent(shield, [long(INITIAL, ids[-1])] * 64, lambda i: bytes((10, 1, i, i)))
    assert rested == {"passed_known_worker": 64}


def test_unknown_versions_do_not_use_up_the_rate_of_our_ids(shield: Shield) -> None:
    """Their rates are in the same column of the buckets, at different indexes."""
    spend(shield, per_s=100, burst=100)
    unknown = long(INITIAL, random_dcid(), version=0x1A2A3A4A)
    assert sent(shield, [unknown] * 200, lambda i: bytes(4))["dropped_version_limit"] > 50
    assert sent(shield, [long(INITIAL, shield.cid())] * 30, lambda i: bytes(4)) == {"passed_known_worker": 30}


def test_ids_are_spread_over_the_buckets(shield: Shield) -> None:
    """Of 400 IDs hardly any two share a bucket: a client cannot choose the bucket of another one."""
    shield.settings.attack = 1
    sent(shield, [long(INITIAL, shield.cid()) for _ in range(400)], lambda i: bytes(4))
    assert 390 < len(shield.used_buckets()) <= 400


def test_our_ids_have_no_limit_when_limits_are_off(shield: Shield) -> None:
    """dispatch.initials_per_s 0; in attack mode each ID still has a limit, so that clients with a Retry can connect."""
    datagram = long(INITIAL, shield.cid())
    assert sent(shield, [datagram] * 300, lambda i: bytes(4)) == {"passed_known_worker": 300}
    shield.settings.attack = 1
    assert sent(shield, [datagram] * 300, lambda i: bytes(4))["dropped_known_limit"] > 200


@pytest.mark.parametrize("attack", [False, True], ids=["calm", "attack"])
def test_a_client_connects_while_its_prefix_is_flooded(shield: Shield, attack: bool) -> None:
    """Slip, Retry, Initials with the token in two datagrams, 0-RTT and the end of the handshake, from one address."""
    spend(shield)
    shield.settings.slip = 1
    shield.settings.attack = attack
    assert sent(shield, [long(INITIAL, random_dcid())] * 500, lambda i: bytes(4)) == {"passed_must_retry": 500}
    spend(shield, per_s=10, burst=20)
    sent(shield, [long(INITIAL, random_dcid())] * 500, lambda i: bytes(4))
    retry, server = shield.cid(), shield.cid()
    handshake = [long(INITIAL, retry, token=b"\1" * 80)] * 2 + [long(ZERO_RTT, retry)] * 10
    handshake += [long(INITIAL, server)] * 2 + [long(HANDSHAKE, server), short(server)]
    assert sent(shield, handshake, lambda i: bytes(4)) == {"passed_known_worker": len(handshake)}
