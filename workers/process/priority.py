"""Taking the priority of somebody who serves: the supervisor starts us with a low one; our imports wait for packets.

Must come before the rights are dropped (CAP_SYS_NICE). A supervisor that knows that we could not do it does not lower
it.
"""

from __future__ import annotations

import contextlib
import logging
import os

log = logging.getLogger(__name__)


def take() -> None:
    """Be as urgent as our parent, the supervisor. What fails is said, and costs latency under load only."""
    normal = os.getpriority(os.PRIO_PROCESS, os.getppid())
    if os.getpriority(os.PRIO_PROCESS, 0) <= normal:
        return
    try:
        os.setpriority(os.PRIO_PROCESS, 0, normal)
    except OSError as error:
        log.warning("cannot take a normal priority: %s; under load this worker answers late", error.strerror)
    # Of our session, where the kernel shares CPU by session (sched(7), "The autogroup feature").
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
        file.write("0")
