"""`velocity-edge dispatch` shows what is pinned and removes it, without a running supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf import pins
from supervisor.steering.choose import open_steering
from tests.support.netns import Network, inside, network
from tests.support.packets import short
from tests.support.traffic import CODEC, CONFIG, PORT, clients, group
from velocity_edge.wire.messages import Listener

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def wire() -> Iterator[Network]:
    with network() as made:
        yield made
        pins.Pins(f"test-{made.server}").remove()


def dispatch(runtime: Path, *arguments: str, namespace: str = "") -> tuple[int, str]:
    command = [sys.executable, "-m", "velocity_edge", "dispatch", *arguments]
    environment = {**os.environ, "VELOCITY_RUNTIME_DIR": str(runtime)}
    if namespace:  # not `ip netns exec`: that hides bpffs behind a /sys of its own
        command = ["nsenter", f"--net=/run/netns/{namespace}", *command]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, done.stdout + done.stderr


def test_status_and_detach(wire: Network, tmp_path: Path) -> None:
    """A node in tier C has lost its supervisor; its sockets are still open."""
    members, (client,) = group(wire, 4, 2), clients(wire, 4, 1)
    name = f"test-{wire.server}"
    with inside(wire.server):
        steering = open_steering(
            mode="xdp",
            instance=name,
            listeners=[Listener("0.0.0.0", PORT)],
            sockets=[members],
            interfaces=[wire.veth],
            cache_dir=tmp_path,
            cid_configs=[CONFIG],
            adopt=False,
        )
    steering.lend(41, 0, 0)
    steering.lend(42, 1, 1)
    steering.accept([42])
    steering.limits(initials_per_s=500, burst=10, slip=0, attack=False)
    for _ in range(3):
        client.send(short(CODEC.issue(1, 41)))
        members[0].settimeout(5)
        members[0].recv(2000)
    steering.release()

    code, output = dispatch(tmp_path, "status", "--json", "--instance", name, namespace=wire.server)
    assert code == 0, output
    (found,) = json.loads(output)
    assert found["interfaces"] == {"veth": True}
    assert found["listeners"] == ["0.0.0.0:443"]
    assert found["workers"] == {
        "41": {"slot": 0, "cpu": 0, "share_of_new": 0.0},
        "42": {"slot": 1, "cpu": 1, "share_of_new": 1.0},
    }
    assert (found["cid_configs"], found["initials_per_s"]) == ([CONFIG.config_id], 500)
    assert found["counters"]["xdp"]["passed_known_worker"] == 3
    assert found["counters"]["select"]["selected_known_worker"] == 3
    code, output = dispatch(tmp_path, "status", "--instance", name, namespace=wire.server)
    assert code == 0, output
    assert "shield on veth" in output
    assert "worker    42  slot   1  cpu   1  100 % of new" in output

    assert wire.xdp_mode() == "native"
    code, output = dispatch(tmp_path, "detach", "--instance", name)
    assert (code, output) == (0, f"Detached {name}.\n")
    assert wire.xdp_mode() == ""
    assert name not in pins.instances()
    # Steering stays attached to the sockets.
    client.send(short(CODEC.issue(1, 42)))
    members[1].settimeout(5)
    members[1].recv(2000)
    code, output = dispatch(tmp_path, "detach", "--instance", name)
    assert (code, output) == (0, f"Nothing of {name} is attached.\n")
    code, output = dispatch(tmp_path, "status", "--instance", name)
    assert (code, output.partition(";")[0]) == (5, f"velocity-edge: cannot find pinned programs of {name!r}")
    for each in (*members, client):
        each.close()


def test_detach_removes_the_shield_of_a_live_supervisor(wire: Network, tmp_path: Path) -> None:
    """A running supervisor holds its links open; detach removes them nevertheless."""
    members = group(wire, 4, 1)
    name = f"test-{wire.server}"
    with inside(wire.server):
        steering = open_steering(
            mode="xdp",
            instance=name,
            listeners=[Listener("0.0.0.0", PORT)],
            sockets=[members],
            interfaces=[wire.veth],
            cache_dir=tmp_path,
            cid_configs=[CONFIG],
            adopt=False,
        )
    assert dispatch(tmp_path, "detach", "--instance", name)[0] == 0
    assert wire.xdp_mode() == ""
    steering.detach()
    for member in members:
        member.close()
