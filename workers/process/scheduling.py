"""A worker's CPU, its priority and its position in the out-of-memory killer's list. It sets all three itself.

The CPU and the score need no privilege for one's own process. The machine may refuse both (a seccomp filter, a cpuset
that has changed since); then the kernel chooses, and the supervisor reports it (velocity_edge/machine). The supervisor
starts workers with a low priority, so that their imports do not delay packets; a worker raises it before it serves.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

#: Added to the supervisor's own score; 1000 stands for all memory (proc(5), oom_score_adj). The kernel kills a worker,
#: which the supervisor restarts, rather than the supervisor.
OOM_SCORE_MORE: Final = 300

_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")


def settle(cpu: int) -> None:
    """Move to *cpu* and raise the out-of-memory score. What is refused is left out."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {cpu})
    with contextlib.suppress(OSError, ValueError):
        _OOM_SCORE.write_text(str(min(int(_OOM_SCORE.read_text()) + OOM_SCORE_MORE, 1000)))


def raise_priority() -> None:
    """Take the priority of the supervisor. A failure is logged, and costs latency under load only.

    Must be called before the privileges are dropped (CAP_SYS_NICE). A supervisor does not lower the priority of workers
    that could not raise it.
    """
    normal = os.getpriority(os.PRIO_PROCESS, os.getppid())
    if os.getpriority(os.PRIO_PROCESS, 0) <= normal:
        return
    try:
        os.setpriority(os.PRIO_PROCESS, 0, normal)
    except OSError as error:
        log.warning("cannot raise the priority to normal: %s; under load this worker responds late", error.strerror)
    # The priority of the session, where the kernel shares CPU by session (sched(7), "The autogroup feature").
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
        file.write("0")
