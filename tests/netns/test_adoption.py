"""The holder of steering may die: nothing changes, a successor adopts the state, detach removes everything.

The holder is a separate process, without capabilities once steering is open; this test has the sockets, as
workers have them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpf import kernel, links, pins
from bpf.kernel import MapSpec
from bpf.linux import SO_DETACH_REUSEPORT_BPF, AttachType, MapType, ProgramType, XdpMode
from supervisor.steering.choose import Steering, Tier, open_steering
from supervisor.steering.interfaces import with_addresses_of
from tests.support.netns import Network, inside, network
from tests.support.packets import INITIAL as INITIAL_TYPE
from tests.support.packets import long, random_dcid, short
from tests.support.traffic import CODEC, CONFIG, INITIAL, Sender, clients, group, receiving
from velocity_edge.errors import Unavailable
from velocity_edge.quic.datagrams import MUST_RETRY_DSCP
from velocity_edge.wire.messages import Listener

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.alone]

HOLDER = Path(__file__).parents[1] / "support" / "steering_holder.py"
WORKERS = {0x0101: 0, 0x0102: 1, 0xFFFF: 2, 0x0000: 3}
DATAGRAMS = 200_000


@pytest.fixture
def wire() -> Iterator[Network]:
    with network() as made:
        yield made
        pins.Pins(f"test-{made.server}").remove()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bytecode")


class Holder:
    """A process that holds steering."""

    def __init__(self, wire: Network, members: list[socket.socket], mode: str, cache_dir: Path, *, adopt: bool) -> None:
        fds = [member.fileno() for member in members]
        arguments = {
            "namespace": wire.server,
            "mode": mode,
            "instance": f"test-{wire.server}",
            "listener": members[0].getsockname()[:2],
            "fds": fds,
            "interfaces": [wire.veth] if mode.startswith("xdp") else [],
            "cache_dir": str(cache_dir),
            "adopt": adopt,
        }
        self.process = subprocess.Popen(
            [sys.executable, str(HOLDER), json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=fds,
            text=True,
        )
        self.opened = self._line()

    def ask(self, *command: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the holder died"
        return json.loads(line)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


@pytest.mark.parametrize("mode", ["socket", "xdp", "xdp-cpumap"])
def test_sigkill_and_adoption_lose_no_datagram(wire: Network, cache_dir: Path, mode: str) -> None:
    """200,000 datagrams flow; the holder is killed, a successor adopts, moves the accepting set, rotates keys.

    The successor has no capability then; 0 lost, 0 on a wrong socket, every counter exact over both processes.
    """
    members = group(wire, 4, len(WORKERS))
    senders = clients(wire, 4, 16)
    first = Holder(wire, members, mode, cache_dir, adopt=False)
    successor = None
    try:
        assert not first.opened["adopted"]
        for worker_id, slot in WORKERS.items():
            first.ask("lend", worker_id, slot)
        first.ask("accept", 0x0101, 0x0102)
        with receiving(members) as receiver:
            sender = Sender(senders, list(WORKERS), DATAGRAMS, 50_000, initial_percent=10)
            time.sleep(0.5)  # some of the traffic must meet the first holder
            first.kill()
            time.sleep(0.5)  # and some no holder
            attached = wire.xdp_mode()
            assert bool(attached) == mode.startswith("xdp")
            successor = Holder(wire, members, mode, cache_dir, adopt=True)
            assert sender.running()
            assert successor.opened["adopted"]
            for turn in range(30):
                successor.ask("accept", *list(WORKERS)[turn % 3 : turn % 3 + 2])
            successor.ask("rotate")
            successor.ask("lend", 0x0777, 0)
            successor.ask("forget", 0x0777)
            assert sender.running()
            sent = sender.finish()
            got = receiver.stop(DATAGRAMS)
        assert wire.xdp_mode() == attached
        for slot, counts in enumerate(got):
            owners = {worker_id for kind, worker_id in counts if kind != INITIAL}
            assert owners <= {worker_id for worker_id, where in WORKERS.items() if where == slot}
        counters = {
            stage: {name: n for name, n in verdicts.items() if n and name != "passed_not_ours"}
            for stage, verdicts in successor.ask("counters").items()
        }
        new = sent[INITIAL, 0]
        assert counters.pop("select") == {"selected_known_worker": DATAGRAMS - new, "selected_new": new}
        if mode != "socket":
            assert counters.pop("xdp") == {"passed_known_worker": DATAGRAMS - new, "passed_initial": new}
        if mode == "xdp-cpumap":
            assert counters.pop("cpumap") == {"moved": DATAGRAMS, "arrived": DATAGRAMS}
        assert counters == {}
        assert sum(got, Counter()) == sent
    finally:
        for holder in (first, successor):
            if holder:
                holder.kill()
        for each in (*members, *senders):
            each.close()


@pytest.mark.parametrize(("before", "mode"), [("socket", "socket"), ("xdp", "xdp"), ("socket-classic", "xdp")])
def test_replacing_tables_that_cannot_be_adopted_loses_no_datagram(
    wire: Network, cache_dir: Path, before: str, mode: str
) -> None:
    """The successor finds another schema, or tier A: the old steering continues until all ids are lent again."""
    members = group(wire, 4, len(WORKERS))
    senders = clients(wire, 4, 16)
    first = Holder(wire, members, before, cache_dir, adopt=False)
    successor = None
    try:
        for worker_id, slot in WORKERS.items():
            first.ask("lend", worker_id, slot)
        first.ask("accept", 0x0101, 0x0102)
        with receiving(members) as receiver:
            sender = Sender(senders, list(WORKERS), DATAGRAMS, 50_000, initial_percent=10)
            first.kill()
            pinned = pins.Pins(f"test-{wire.server}")
            if pinned.instance.exists():
                pinned.directory.rename(pinned.instance / "v0")
            successor = Holder(wire, members, mode, cache_dir, adopt=True)
            assert not successor.opened["adopted"]
            for worker_id, slot in WORKERS.items():
                time.sleep(0.05)  # a slow supervisor
                successor.ask("lend", worker_id, slot)
            successor.ask("accept", 0xFFFF, 0x0000)
            assert sender.running()
            sent = sender.finish()
            got = receiver.stop(DATAGRAMS)
        for slot, counts in enumerate(got):
            owners = {worker_id for kind, worker_id in counts if kind != INITIAL}
            assert owners <= {worker_id for worker_id, where in WORKERS.items() if where == slot}
            assert counts[INITIAL, 0] > 0  # the first two before, the others after
        assert sum(got, Counter()) == sent
        moved = successor.ask("counters")["select"]
        assert moved["selected_known_worker"] > 0
        assert {name for name, n in moved.items() if n} == {"selected_known_worker", "selected_new"}
    finally:
        for holder in (first, successor):
            if holder:
                holder.kill()
        for each in (*members, *senders):
            each.close()


def steer(wire: Network, members: list[socket.socket], cache_dir: Path, mode: str, **changes: Any) -> Steering:
    arguments: dict[str, Any] = {"interfaces": [wire.veth] if mode.startswith("xdp") else [], "adopt": False}
    host, port = members[0].getsockname()[:2]
    with inside(wire.server):
        return open_steering(
            mode=mode,
            instance=f"test-{wire.server}",
            listeners=[Listener(host, port)],
            sockets=[members],
            cache_dir=cache_dir,
            cid_configs=[CONFIG],
            **{**arguments, **changes},
        )


@pytest.mark.parametrize("mode", ["socket-classic", "socket", "xdp", "xdp-cpumap"])
def test_detach_removes_programs_and_pins(wire: Network, cache_dir: Path, mode: str) -> None:
    members = group(wire, 4, 2)
    steering = steer(wire, members, cache_dir, mode)
    assert bool(wire.xdp_mode()) == mode.startswith("xdp")
    steering.detach()
    assert wire.xdp_mode() == ""
    assert not pins.Pins(f"test-{wire.server}").instance.exists()
    # Nothing is left to detach from the group.
    with pytest.raises(FileNotFoundError):
        members[1].setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
    for member in members:
        member.close()


def test_lower_tier_removes_the_shield(wire: Network, cache_dir: Path) -> None:
    """Adoption in another mode: C, then B with the same tables, then C again, then A."""
    members = group(wire, 4, len(WORKERS))
    (client,) = clients(wire, 4, 1)
    steering = steer(wire, members, cache_dir, "xdp")
    for worker_id, slot in WORKERS.items():
        steering.lend(worker_id, slot, 0)
    for mode, tier, attached in (("socket", Tier.B, ""), ("xdp", Tier.C, "native"), ("socket", Tier.B, "")):
        steering.release()
        steering = steer(wire, members, cache_dir, mode, adopt=True)
        assert (steering.adopted, steering.tier, wire.xdp_mode()) == (True, tier, attached)
        for worker_id, slot in WORKERS.items():
            client.send(short(CODEC.issue(1, worker_id)))
            members[slot].settimeout(5)
            members[slot].recv(2000)
    steering.release()
    steering = steer(wire, members, cache_dir, "xdp", adopt=True)
    steering.release()
    steering = steer(wire, members, cache_dir, "socket-classic")
    assert (steering.tier, wire.xdp_mode()) == (Tier.A, "")
    steering.detach()
    for each in (*members, client):
        each.close()


def test_pins_of_another_schema_or_shape_are_not_used(wire: Network, cache_dir: Path) -> None:
    members = group(wire, 4, 2)
    other = pins.Pins(f"test-{wire.server}")
    old = other.instance / "v0"
    old.mkdir(parents=True)
    wrong = kernel.create_map(MapSpec("settings", MapType.ARRAY, 4, 8, 1))
    links.pin(wrong, old / "settings")
    steering = steer(wire, members, cache_dir, "socket", adopt=True)
    assert (steering.adopted, old.exists()) == (False, False)
    steering.release()
    # The right directory, but a map of another size in it.
    other.pin(wrong, "settings")
    os.close(wrong)
    steering = steer(wire, members, cache_dir, "socket", adopt=True)
    assert not steering.adopted
    steering.detach()
    for member in members:
        member.close()


def test_foreign_xdp_program_is_not_replaced(wire: Network, cache_dir: Path) -> None:
    """An explicit mode reports the conflict, auto continues without the shield; the other program is not touched."""
    members = group(wire, 4, 2)
    pass_all = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    program = kernel.load_program("other", pass_all, ProgramType.XDP, AttachType.XDP)
    with inside(wire.server):
        link = links.link_xdp(program, socket.if_nametoindex(wire.veth), XdpMode.NATIVE)
    with pytest.raises(Unavailable, match=r"^cannot attach to veth: another XDP program is there"):
        steer(wire, members, cache_dir, "xdp")
    assert not pins.Pins(f"test-{wire.server}").instance.exists()
    steering = steer(wire, members, cache_dir, "auto", interfaces=[wire.veth])
    assert steering.tier is Tier.B
    assert "another XDP program is there" in steering.missing
    assert wire.xdp_mode() == "native"
    steering.detach()
    assert wire.xdp_mode() == "native"
    for fd in (link, program):
        os.close(fd)
    for member in members:
        member.close()


def test_auto_chooses_the_interface_of_a_listener(wire: Network, cache_dir: Path) -> None:
    """auto shields the interface of a listener's address, never one because of a wildcard or loopback."""
    cases = [("10.9.0.2", Tier.C), ("0.0.0.0", Tier.B), ("127.0.0.1", Tier.B)]
    for host, tier in cases:
        members = group(wire, 4, 2, host=host)
        steering = steer(wire, members, cache_dir, "auto", interfaces=[])
        assert (host, steering.tier) == (host, tier)
        if tier is Tier.B:
            assert "cannot choose an interface" in steering.missing
        steering.detach()
        for member in members:
            member.close()

    async def as_the_supervisor_does() -> list[str]:
        return [found.kind for found in with_addresses_of([Listener("fd09::2", 443)])]

    with inside(wire.server):
        assert asyncio.run(as_the_supervisor_does()) == ["veth"]
    members = group(wire, 4, 2)
    with pytest.raises(Unavailable, match=r"^cannot attach to nope: no such network interface; there are lo, veth$"):
        steer(wire, members, cache_dir, "xdp", interfaces=["nope"])
    for member in members:
        member.close()


@pytest.mark.parametrize("family", [4, 6])
def test_shield_enforces_limits_and_deny_lists(wire: Network, cache_dir: Path, family: int) -> None:
    """Over-limit Initials arrive with the mark, and with a header that the stack accepts; denied ones do not arrive."""
    members = group(wire, family, 1)
    (client,) = clients(wire, family, 1)
    steering = steer(wire, members, cache_dir, "xdp")
    steering.lend(1, 0, 0)
    steering.accept([1])
    if family == 4:
        members[0].setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    else:
        members[0].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    members[0].settimeout(5)

    def tos_of(datagram: bytes) -> int:
        client.send(datagram)
        _, control, _, _ = members[0].recvmsg(2000, 100)
        return control[0][2][0] if control else 0

    steering.limits(initials_per_s=1, burst=3, slip=1, attack=False)
    seen = [tos_of(long(INITIAL_TYPE, random_dcid())) >> 2 for _ in range(6)]
    assert seen == [0, 0, 0] + [MUST_RETRY_DSCP] * 3
    # A whole tick of the clock may pass: then one more is within the limit.
    steering.limits(initials_per_s=0, burst=0, slip=0, attack=False)
    assert tos_of(long(INITIAL_TYPE, random_dcid())) >> 2 == 0
    own = ipaddress.ip_network(wire.client_address[family])
    steering.deny([own])
    before = steering.counters()["xdp"]["dropped_denied"]
    client.send(short(CODEC.issue(1, 1)))
    deadline = time.monotonic() + 5
    while steering.counters()["xdp"]["dropped_denied"] == before:
        assert time.monotonic() < deadline
    steering.deny([])
    assert tos_of(short(CODEC.issue(1, 1))) >> 2 == 0
    steering.detach()
    for each in (*members, client):
        each.close()
