"""From a configuration to a running node: adopt what an earlier supervisor left, or open everything anew.

The order matters: the lock first (one supervisor per runtime directory), then files (mistakes cost nothing yet), then
workers that live, sockets, programs, and at last the Node. Whatever fails on the way leaves no process, no pin and no
socket behind, except those that were serving before.
"""

from __future__ import annotations

import logging
import operator
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from bpf import BpfError, loader
from supervisor.machine import spawn
from supervisor.machine.keyring import Keyring, check_keys
from supervisor.machine.materials import Materials, gather
from supervisor.machine.places import Places
from supervisor.machine.privileges import may_raise_priority
from supervisor.machine.slots import Slot, Slots
from supervisor.machine.spawn import WORKER_PROGRAM
from supervisor.machine.systemd import ServiceManager, received
from supervisor.node.happenings import Reload, Reported
from supervisor.node.node import Node
from supervisor.node.state import Settings
from supervisor.node.worker import WorkerIds
from supervisor.shell import Shell
from supervisor.steering.base import Tier
from supervisor.steering.choose import open_steering
from supervisor.succession import translate
from supervisor.succession.adoption import Adoption, Returned
from supervisor.succession.fd_store import Store, fits
from supervisor.succession.quiesced_file import QuiescedFile
from supervisor.succession.saved_state import SavedState
from supervisor.succession.state_file import StateFile, read_state
from velocity_edge.atomic_file import read_file, replace_file
from velocity_edge.config.model import Config
from velocity_edge.errors import CannotDo, ConfigError, Unavailable, VelocityError
from velocity_edge.machine.cpus import affinity_refused, workers_by_default
from velocity_edge.machine.needs import lacking, sentence, too_few_descriptors
from velocity_edge.machine.worker_user import Rights, choose
from velocity_edge.paths import instance_name
from velocity_edge.wire.messages import Listener

log = logging.getLogger("supervisor")

#: To import a worker on a loaded machine.
_CHECK_TIMEOUT_S: Final = 30


async def start(
    config: Config, places: Places, state_file: StateFile, worker_program: Sequence[str], *, roll: bool = False
) -> tuple[Shell, Callable[[], None]]:
    """Return the shell, and the call that begins the node's life; with *roll*, adopted workers are replaced then.

    Raises `VelocityError`.
    """
    require(config)
    saved = state_file.load()
    # A predecessor began an upgrade, and perhaps another one has died since.
    roll = saved is not None and (roll or saved.roll)
    ours = gather(1 + max(saved.revision, saved.last_revision) if saved else 1, config, places.state)
    living = saved is not None and any(spawn.start_ticks(v.pid) == v.start_ticks for v in saved.workers)
    keyring = Keyring.open(config.tickets, places.state, time.time(), living=living)
    node_id = config.server.node_id if config.server.node_id is not None else kept_node_id(places.state)
    manager = ServiceManager.find()
    store = Store(manager, received())
    adoption = Adoption(places.runtime / "workers.sock", saved) if saved else None
    returned = await adoption.gather() if adoption else []
    adopting = saved if returned else None
    cpus = adopting.cpus if adopting else choose_cpus(config.server.workers)
    if why := too_few_descriptors(len(config.server.addresses), len(cpus), len(config.content.sites)):
        raise Unavailable(why)
    notes = list(done_without(config))
    # Workers that are replaced anyway are not asked about our configuration: it is their successors' revision.
    in_use = _in_use(adopting, config, places.state) if adopting and not roll else ours
    if adopting and adoption:
        kept = store.take(partial(operator.eq, adopting.listeners), 2 * adopting.cores, adoption.held)
        slots, missing = Slots.adopt(adopting.listeners, adopting.cores, adoption.held | kept)
        notes += _differences(adopting, config, missing)
    else:
        # Where any port would do, clients of the dead know one.
        same = saved is not None and fits(config.server.addresses, saved.listeners)
        wanted = saved.listeners if saved and same else config.server.addresses
        kept = store.take(partial(fits, wanted), 2 * len(cpus))
        slots, missing = _open(wanted, len(cpus), kept)
    slots.nobody_writes(except_in=[worker.saved.slot for worker in returned])
    try:
        steering = open_steering(
            mode=config.dispatch.mode,
            instance=instance_name(places.runtime),
            listeners=slots.listeners,
            sockets=slots.groups(),
            interfaces=config.dispatch.interfaces,
            cache_dir=places.cache,
            cid_configs=keyring.cid_configs(),
            # Also when all workers are dead: the shield stays where it is, dead ids are led to whoever answers them.
            adopt=saved is not None,
        )
    except BaseException:
        slots.close()
        raise
    if missing and adopting and steering.tier is Tier.A:
        notes.append("classic BPF counts sockets in an order that has changed: restart the node for exact steering")
    node = Node(
        node_settings(in_use.config, len(cpus)),
        target=min(adopting.target if adopting else config.server.workers or workers_by_default(), len(cpus)),
        epochs=keyring.epochs,
        seal_with=keyring.table.seal_with,
        cid_epochs=keyring.table.cid_live,
        closed_epochs=keyring.table.closed,
        announced=keyring.table.announced or 0,
        revision=in_use.revision,
        ids=WorkerIds(saved.next_id if saved else 1 + secrets.randbelow(0xFFFF)),
    )
    shell = Shell(
        node,
        slots,
        steering,
        keyring,
        state_file,
        places,
        manager,
        store,
        QuiescedFile(places.state / f"quiesced-{instance_name(places.runtime)}.json"),
        cpus,
        node_id,
        worker_program,
        {in_use.revision: in_use},
        ours.revision,
        notes,
    )
    shell.use_dispatch_settings()
    if problem := store.keep(slots, missing):
        notes.append(problem)
    shell.origin = _origin(len(returned), len(kept))
    return shell, lambda: _begin(shell, ours, saved, returned, roll=roll)


def _open(wanted: list[Listener], cores: int, kept: dict[int, Slot]) -> tuple[Slots, list[int]]:
    """Return the slots of a node without workers: what the service manager kept, and new ones in place of the rest."""
    if not kept:
        return Slots.open(wanted, cores), []
    log.info("%d of %d slots come from the service manager, with what waits in their sockets", len(kept), 2 * cores)
    first = min(kept)
    listeners = [Listener(*sock.getsockname()[:2]) for sock in kept[first].udp]
    return Slots.adopt(listeners, cores, kept)


def _origin(workers: int, slots: int) -> str:
    if workers:
        return f"adopted {workers} workers of an earlier supervisor"
    return "took over the sockets that the service manager kept" if slots else ""


def _begin(shell: Shell, ours: Materials, saved: SavedState | None, returned: list[Returned], *, roll: bool) -> None:
    """Let the node's life begin, with the workers that came back; then have them try our configuration."""
    if saved is None:
        shell.happen(shell.quiesced_file.load())
        return
    came = {}
    for worker in returned:
        assert worker.hello is not None
        worker_id = worker.saved.worker_id
        shell.attach(worker_id, worker.process, worker.channel)
        came[worker_id] = worker.hello
    node = shell.node
    shell.happen(translate.started(saved, came, shell.steering.lent(), node.settings, shell.clock(), roll=roll))
    for worker in returned:
        for report in worker.later:
            shell.happen(Reported(worker.saved.worker_id, report))
    if came and not roll:
        shell.materials[ours.revision] = ours
        try:
            shell.happen(Reload(ours.revision))
        except CannotDo as refusal:
            log.warning("%s", refusal)


def _in_use(saved: SavedState, config: Config, state_directory: Path) -> Materials:
    """Return the revision that the adopted workers serve; when it cannot be had any more, ours under its number.

    What is in our file is tried after that, like any other reload: it may be newer, and workers may refuse it.
    """
    if saved.config is None:
        return gather(saved.revision, config, state_directory)
    try:
        return gather(saved.revision, Config.from_json(saved.config), state_directory)
    except (ConfigError, ValidationError) as error:
        log.warning("workers to come cannot use the configuration that those before them use: %s", error)
        return gather(saved.revision, config, state_directory)


def require(config: Config) -> None:
    """Raise `Unavailable` when this machine lacks what no node can do without, or the user that was asked for."""
    if lacks := lacking():
        raise Unavailable(sentence(lacks))
    choose(config.server.user, Rights.of_this_process())


def done_without(config: Config) -> Iterator[str]:
    """Yield a sentence for `status` for each right that is not here and not asked for by name."""
    if degraded := choose(config.server.user, Rights.of_this_process()).degraded:
        yield degraded
    if why := affinity_refused():
        yield f"{why}; a seccomp filter that permits it would be right"
    if os.geteuid() == 0 and not may_raise_priority():
        log.info("without CAP_SYS_NICE a worker that starts does not wait for those who serve: restarts cost latency")


def check(config: Config, places: Places, worker_program: Sequence[str] | None) -> None:
    """Raise `VelocityError` when a node of this installation would not start; warm the cache for one that would.

    What an upgrade asks before it becomes this program: afterwards nobody would be left to say no.
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


def worker_options(config: Config) -> list[str]:
    """Return what a worker must know of the configuration before its first message."""
    return ["--engine", config.server.engine, *(["--user", config.server.user] if config.server.user else [])]


def node_settings(config: Config, cores: int) -> Settings:
    """Return the times that a configuration sets."""
    return Settings(
        cores,
        drain_timeout_s=config.server.drain.timeout_s,
        drain_spread_s=config.server.drain.spread_s,
        quarantine_s=config.server.limits.idle_timeout_s + 10.0,
    )


def choose_cpus(workers: int | None) -> list[int]:
    """Return a CPU for each core that may have a worker: those we may use, in turn when more workers are wanted."""
    allowed = sorted(os.sched_getaffinity(0))
    count = max(workers or 0, len(allowed))
    return [allowed[index % len(allowed)] for index in range(count)]


def kept_node_id(directory: Path) -> int:
    """Return the node's number in connection IDs: random at first, then always the same."""
    path = directory / "node-id"
    try:
        text = read_file(path, 64).decode("ascii", "replace").strip()
    except FileNotFoundError:
        node_id = secrets.randbits(32)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, f"{node_id}\n".encode(), 0o644)
        return node_id
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= 0xFFFFFFFF):
        raise ConfigError(f"cannot use {path}: a number of 32 bits would be right, not {text[:40]!r}")
    return int(text)


def _differences(saved: SavedState, config: Config, missing: list[int]) -> list[str]:
    """Return what an adopted node is not as the configuration wants it."""
    notes: list[str] = []
    if not fits(config.server.addresses, saved.listeners):
        notes.append("server.listen has changed while no supervisor was there: restart the node to use it")
    if missing:
        log.warning("slots %s had no keeper and were opened anew", ", ".join(map(str, missing)))
    return notes
