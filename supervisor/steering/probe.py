"""Finds the best tier of this machine: opens steering as the start of a node does, on other sockets, and closes it.

`python -m supervisor --probe` prints the result for `velocity-edge doctor`, so a node and doctor agree. The shield is
loaded but attached to no interface, nothing is pinned, and no bpffs is mounted: the machine is unchanged, except for
compiled programs in the cache. Short because it only opens what kernel.py has.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from bpf import BpfError
from supervisor.machine import sockets
from supervisor.steering.base import Tier
from supervisor.steering.choose import sentence
from supervisor.steering.kernel import KernelSteering
from velocity_edge.wire.messages import Listener


def best_tier(cache_dir: Path) -> tuple[Tier, str]:
    """Return the best of A, B and C, and why no better one. The interfaces of the shield depend on the configuration.

    Raises `VelocityError` when no socket can be opened on the loopback interface.
    """
    listeners, groups = sockets.open_listeners([Listener("127.0.0.1", 0)], 2)
    with contextlib.ExitStack() as stack:
        for sock in groups[0]:
            stack.callback(sock.close)
        try:
            steering = KernelSteering(listeners, groups, [], cache_dir, None)
        except (BpfError, OSError) as error:
            return Tier.A, f"tier B (socket-ebpf): {sentence(error)}"
        stack.callback(steering.detach)
        try:
            steering.attach_shield([], move=False)
        except (BpfError, OSError) as error:
            return Tier.B, f"tier C (xdp): {sentence(error)}"
        return steering.tier, ""
