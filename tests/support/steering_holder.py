"""A process that holds steering as a supervisor does: opens it, drops its rights, then obeys commands on stdin.

    steering_holder.py '{"namespace": ..., "mode": ..., "fds": [...], ...}'

Prints one JSON line when it is open, and one per command. Killed with SIGKILL it leaves what a crash leaves.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import socket
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from supervisor.steering.choose import Steering, open_steering
from tests.support.traffic import CONFIG
from velocity_edge.wire.cid import CidConfig
from velocity_edge.wire.messages import Listener


def drop_rights() -> None:
    """No uid, no capability: stricter than a supervisor after loading."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)) == 0
    status = Path("/proc/self/status").read_text()
    assert "CapEff:\t0000000000000000" in status


def do(steering: Steering, command: list[object]) -> object:
    match command:
        case ["lend", int(worker_id), int(slot)]:
            return steering.lend(worker_id, slot, slot % 2)
        case ["forget", int(worker_id)]:
            return steering.forget(worker_id)
        case ["accept", *worker_ids]:
            return steering.accept([int(str(each)) for each in worker_ids])
        case ["rotate"]:
            return steering.use_cid_configs([CONFIG, CidConfig(4, bytes(16), bytes(16))])
        case ["limits", int(rate), int(burst), int(slip)]:
            return steering.limits(initials_per_s=rate, burst=burst, slip=slip, attack=False)
        case ["deny", *networks]:
            return steering.deny([ipaddress.ip_network(str(each)) for each in networks])
        case ["counters"]:
            return steering.counters()
    raise ValueError(command)


def main() -> None:
    arguments = json.loads(sys.argv[1])
    namespace = os.open(f"/run/netns/{arguments['namespace']}", os.O_RDONLY)
    assert ctypes.CDLL(None).setns(namespace, 0x40000000) == 0
    steering = open_steering(
        mode=arguments["mode"],
        instance=arguments["instance"],
        listeners=[Listener(*arguments["listener"])],
        sockets=[[socket.socket(fileno=fd) for fd in arguments["fds"]]],
        interfaces=arguments["interfaces"],
        cache_dir=Path(arguments["cache_dir"]),
        cid_configs=[CONFIG],
        adopt=arguments["adopt"],
    )
    drop_rights()
    print(
        json.dumps({"tier": steering.tier.name, "adopted": steering.adopted, "missing": steering.missing}), flush=True
    )
    for line in sys.stdin:
        print(json.dumps(do(steering, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
