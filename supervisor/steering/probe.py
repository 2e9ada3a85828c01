"""Which tier this machine could give a node: steering is opened as a start does it, on sockets of its own, and closed.

`python -m supervisor --probe` prints the answer for `velocity-edge doctor`, so that both know the same. The shield is
loaded and attached to no interface, nothing is pinned, and no bpffs is mounted: apart from compiled programs in the
cache the machine stays as it was.
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
    """Return the best of A, B and C, and why no better one; where the shield goes is the configuration's matter.

    Raises `VelocityError` where not even a socket of the loopback interface can be had.
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
