"""Steering needs only CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; without them a node has tier A and reports the reason."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpf import pins
from supervisor.steering.choose import Steering, Tier, open_steering
from tests.support.netns import Network, network
from tests.support.packets import short
from tests.support.traffic import CODEC, CONFIG, clients, group
from velocity_edge.errors import Unavailable
from velocity_edge.wire.messages import Listener

pytestmark = [pytest.mark.root, pytest.mark.slow]

_OPEN = """
import json, socket, sys
from pathlib import Path
from supervisor.steering.choose import open_steering
from tests.support.traffic import CONFIG
from velocity_edge.errors import Unavailable
from velocity_edge.wire.messages import Listener
a = json.loads(sys.argv[1])
try:
    s = open_steering(mode=a["mode"], instance=a["instance"], listeners=[Listener("0.0.0.0", 443)],
                      sockets=[[socket.socket(fileno=fd) for fd in a["fds"]]], interfaces=["veth"],
                      cache_dir=Path(a["cache_dir"]), cid_configs=[CONFIG], adopt=False)
except Unavailable as error:
    print(json.dumps(str(error)))
else:
    s.lend(5, 1, 0)
    s.accept([5])
    print(json.dumps([s.tier.name, s.missing]))
    s.release()
"""


@pytest.fixture
def wire() -> Iterator[Network]:
    with network() as made:
        yield made
        pins.Pins(f"test-{made.server}").remove()


def opened_with(capabilities: str, wire: Network, mode: str, members: list[socket.socket], cache_dir: Path) -> object:
    """Open steering as root with only these capabilities; return [tier, missing] or the error."""
    fds = [member.fileno() for member in members]
    arguments = {"mode": mode, "instance": f"test-{wire.server}", "fds": fds, "cache_dir": str(cache_dir)}
    enter = ["nsenter", f"--net=/run/netns/{wire.server}", "setpriv", f"--bounding-set=-all{capabilities}"]
    done = subprocess.run(
        [*enter, sys.executable, "-c", _OPEN, json.dumps(arguments)],
        capture_output=True,
        text=True,
        pass_fds=fds,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_three_capabilities_suffice_for_steering(wire: Network, tmp_path: Path) -> None:
    """Also to compile, to pin and to attach; and it steers."""
    members, (client,) = group(wire, 4, 2), clients(wire, 4, 1)
    assert opened_with(",+bpf,+net_admin,+perfmon", wire, "xdp", members, tmp_path) == [
        "C",
        "tier D (xdp-cpumap): only with dispatch.mode xdp-cpumap",
    ]
    assert wire.xdp_mode() == "native"
    client.send(short(CODEC.issue(1, 5)))
    members[1].settimeout(5)
    members[1].recv(2000)
    for each in (*members, client):
        each.close()


@pytest.mark.parametrize(
    ("capabilities", "reason"),
    [
        (",+net_admin,+perfmon", "cannot create the map settings: needs CAP_BPF"),
        (",+bpf,+net_admin", "cannot load choose_socket: needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"),
        (",+bpf,+perfmon", "cannot load shield: needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"),
    ],
)
def test_auto_reports_the_missing_capability(wire: Network, tmp_path: Path, capabilities: str, reason: str) -> None:
    """An explicit mode is refused with the same message, and leaves nothing behind."""
    members = group(wire, 4, 2)
    expected = ["B", f"tier C (xdp): {reason}"] if "shield" in reason else ["A", f"tier B (socket-ebpf): {reason}"]
    assert opened_with(capabilities, wire, "auto", members, tmp_path) == expected
    pins.Pins(f"test-{wire.server}").remove()
    assert opened_with(capabilities, wire, "xdp", members, tmp_path) == reason
    assert wire.xdp_mode() == ""
    assert f"test-{wire.server}" not in pins.instances()
    for member in members:
        member.close()


def test_unprivileged_user_gets_tier_a(tmp_path: Path) -> None:
    """As another uid without capabilities: it binds, steers and detaches."""

    def as_nobody() -> None:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        members: list[socket.socket] = []
        port = 0
        for _ in range(3):
            member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            member.bind(("127.0.0.1", port))
            port = member.getsockname()[1]
            members.append(member)

        def steer(mode: str) -> Steering:
            return open_steering(
                mode=mode,
                instance="nobody",
                listeners=[Listener("127.0.0.1", port)],
                sockets=[members],
                interfaces=[],
                cache_dir=tmp_path,
                cid_configs=[CONFIG],
                adopt=False,
            )

        with pytest.raises(Unavailable, match=r"^cannot "):
            steer("socket")
        steering = steer("auto")
        assert steering.tier is Tier.A
        steering.lend(9, 2, 0)
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.sendto(short(CODEC.issue(1, 9)), ("127.0.0.1", port))
        members[2].settimeout(5)
        members[2].recv(2000)
        steering.detach()

    assert _in_a_child(as_nobody) == ""


def _in_a_child(work: Callable[[], None]) -> str:
    """Run in a forked process; return its traceback, or nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-4000:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said
