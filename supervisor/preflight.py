"""Whether a node of this installation and configuration can start on this machine, before anything is opened."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

from bpf import BpfError, loader
from supervisor.machine.keyring import check_keys
from supervisor.machine.materials import gather
from supervisor.machine.privileges import may_raise_priority
from supervisor.machine.spawn import WORKER_PROGRAM
from supervisor.parameters import worker_options
from supervisor.succession.state_file import read_state
from velocity_edge.config.model import Config
from velocity_edge.errors import Unavailable, VelocityError
from velocity_edge.machine.cpus import affinity_refused
from velocity_edge.machine.needs import lacking, sentence
from velocity_edge.machine.worker_user import Rights, choose
from velocity_edge.paths import Places

log = logging.getLogger("supervisor")

#: To import a worker on a loaded machine.
_CHECK_TIMEOUT_S: Final = 30


def require(config: Config) -> None:
    """Raise `Unavailable` when this machine lacks something that every node needs, or the configured user."""
    if lacks := lacking():
        raise Unavailable(sentence(lacks))
    choose(config.server.user, Rights.of_this_process())


def done_without(config: Config) -> Iterator[str]:
    """Yield a sentence for `status` for each privilege that is missing and was not configured explicitly."""
    if degraded := choose(config.server.user, Rights.of_this_process()).degraded:
        yield degraded
    if why := affinity_refused():
        yield f"{why}; expected a seccomp filter that permits it"
    if os.geteuid() == 0 and not may_raise_priority():
        log.info("without CAP_SYS_NICE a worker that starts does not yield to those that serve: restarts cost latency")


def check(config: Config, places: Places, worker_program: Sequence[str] | None) -> None:
    """Raise `VelocityError` when a node of this installation would not start; otherwise fill its cache.

    An upgrade runs this before it executes the new program: afterwards it could not go back.
    """
    require(config)
    read_state(places.runtime)
    gather(0, config, places.state).close()
    check_keys(config.tickets, places.state)
    program = [*(worker_program or [*WORKER_PROGRAM, *worker_options(config)]), "--check"]
    try:
        answer = subprocess.run(program, capture_output=True, text=True, timeout=_CHECK_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VelocityError(f"cannot start a worker: {error}") from None
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or [f"it ends with {answer.returncode}"])[-1]
        raise VelocityError(f"cannot start a worker: {last}")
    if config.dispatch.mode == "socket-classic":
        return
    try:
        loader.warm_up(places.cache)
    except BpfError as error:
        if config.dispatch.mode != "auto":
            raise VelocityError(str(error)) from None
