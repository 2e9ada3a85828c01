"""Where a worker is on its machine: on one CPU, and before its supervisor in the out-of-memory killer's list.

It takes that place itself, at once: for one's own process neither needs a right. The machine may refuse both (a seccomp
filter, a cpuset that has changed since); then the kernel chooses, and the supervisor says so (velocity_edge/machine).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

#: On top of the supervisor's own; a score of 1000 stands for all memory there is (proc(5), oom_score_adj). The
#: supervisor would have to be started again by somebody else, a worker is by it.
OOM_SCORE_MORE: Final = 300

_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")


def take(cpu: int) -> None:
    """Go there. What cannot be had is done without."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {cpu})
    with contextlib.suppress(OSError, ValueError):
        _OOM_SCORE.write_text(str(min(int(_OOM_SCORE.read_text()) + OOM_SCORE_MORE, 1000)))
