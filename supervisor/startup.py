"""From a configuration to a running node: adopt what an earlier supervisor left, or open everything anew.

The order matters: the lock first (one supervisor per runtime directory), then files (errors cost nothing yet), then
live workers, sockets, packet programs, and at last the Node. A failure leaves no process, no pin and no socket behind,
except those that were serving before.
"""

from __future__ import annotations

import logging
import operator
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from supervisor import worker_links
from supervisor.carry_out import use_dispatch_settings
from supervisor.machine import spawn
from supervisor.machine.keyring import Keyring
from supervisor.machine.materials import Materials, gather
from supervisor.machine.slots import Slot, Slots
from supervisor.machine.systemd import ServiceManager, received
from supervisor.node.happenings import Reload
from supervisor.node.node import Node
from supervisor.node.worker import WorkerIds
from supervisor.parameters import choose_cpus, kept_node_id, node_settings
from supervisor.preflight import done_without, require
from supervisor.shell import Shell
from supervisor.steering.base import Tier
from supervisor.steering.choose import open_steering
from supervisor.succession import translate
from supervisor.succession.adoption import Adoption, Returned
from supervisor.succession.fd_store import Store, fits
from supervisor.succession.quiesced_file import QuiescedFile
from supervisor.succession.saved_state import SavedState
from supervisor.succession.state_file import StateFile
from velocity_edge.config.model import Config
from velocity_edge.config.needs import files_of
from velocity_edge.errors import CannotDo, ConfigError, Unavailable
from velocity_edge.machine.cpus import workers_by_default
from velocity_edge.machine.needs import too_few_descriptors
from velocity_edge.paths import Places, instance_name
from velocity_edge.wire.messages import Listener

log = logging.getLogger("supervisor")


async def start(
    config: Config, places: Places, state_file: StateFile, worker_program: Sequence[str], *, roll: bool = False
) -> tuple[Shell, Callable[[], None]]:
    """Return the shell, and the call that starts the node; with *roll*, adopted workers are replaced then.

    Raises `VelocityError`.
    """
    require(config)
    saved = state_file.load()
    # An earlier supervisor began an upgrade, and its successor may have died since.
    roll = saved is not None and (roll or saved.roll)
    ours = gather(1 + max(saved.revision, saved.last_revision) if saved else 1, config, places.state)
    living = saved is not None and any(spawn.start_ticks(worker.pid) == worker.start_ticks for worker in saved.workers)
    keyring = Keyring.open(config.tickets, places.state, time.time(), living=living)
    node_id = config.server.node_id if config.server.node_id is not None else kept_node_id(places.state)
    manager = ServiceManager.find()
    store = Store(manager, received())
    adoption = Adoption(places.runtime / "workers.sock", saved) if saved else None
    returned = await adoption.gather() if adoption else []
    adopting = saved if returned else None
    cpus = adopting.cpus if adopting else choose_cpus(config.server.workers)
    if why := too_few_descriptors(len(config.server.addresses), len(cpus), len(list(files_of(config)))):
        raise Unavailable(why)
    notes = list(done_without(config))
    # Workers that are replaced anyway do not try our configuration: it is the revision of their successors.
    in_use = _in_use(adopting, config, places.state) if adopting and not roll else ours
    if adopting and adoption:
        kept = store.take(partial(operator.eq, adopting.listeners), 2 * adopting.cores, adoption.held)
        slots, missing = Slots.adopt(adopting.listeners, adopting.cores, adoption.held | kept)
        notes += _differences(adopting, config, missing)
    else:
        # Where port 0 is configured, clients of the earlier node know the bound port.
        same = saved is not None and fits(config.server.addresses, saved.listeners)
        wanted = saved.listeners if saved and same else config.server.addresses
        kept = store.take(partial(fits, wanted), 2 * len(cpus))
        slots, missing = _open(wanted, len(cpus), kept)
    slots.reset_gauges(except_in=[worker.saved.slot for worker in returned])
    try:
        steering = open_steering(
            mode=config.dispatch.mode,
            instance=instance_name(places.runtime),
            listeners=slots.listeners,
            sockets=slots.groups(),
            interfaces=config.dispatch.interfaces,
            cache_dir=places.cache,
            cid_configs=keyring.cid_configs(),
            # Also when all workers are dead: the shield stays attached, and packets for dead ids get resets.
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
    use_dispatch_settings(shell)
    if problem := store.keep(slots, missing):
        notes.append(problem)
    shell.origin = _origin(len(returned), len(kept))
    return shell, lambda: _begin(shell, ours, saved, returned, roll=roll)


def _open(wanted: list[Listener], cores: int, kept: dict[int, Slot]) -> tuple[Slots, list[int]]:
    """Return the slots of a node without workers: those that the service manager kept, and new ones for the rest."""
    if not kept:
        return Slots.open(wanted, cores), []
    log.info(
        "%d of %d slots come from the service manager, with the packets that wait in their sockets",
        len(kept),
        2 * cores,
    )
    first = min(kept)
    listeners = [Listener(*sock.getsockname()[:2]) for sock in kept[first].udp]
    return Slots.adopt(listeners, cores, kept)


def _origin(workers: int, slots: int) -> str:
    if workers:
        return f"adopted {workers} workers of an earlier supervisor"
    return "took over the sockets that the service manager kept" if slots else ""


def _begin(shell: Shell, ours: Materials, saved: SavedState | None, returned: list[Returned], *, roll: bool) -> None:
    """Start the node, with the workers that came back; then have them try our configuration."""
    if saved is None:
        shell.happen(shell.quiesced_file.load())
        return
    if returned:
        shell.sums = shell.sums_file.load([worker.saved.worker_id for worker in returned])
    came = {}
    for worker in returned:
        assert worker.hello is not None
        worker_id = worker.saved.worker_id
        worker_links.attach(shell, worker_id, worker.process, worker.channel)
        came[worker_id] = worker.hello
    node = shell.node
    shell.happen(translate.started(saved, came, shell.steering.lent(), node.settings, shell.clock(), roll=roll))
    for worker in returned:
        for report in worker.later:
            worker_links.hear(shell, worker.saved.worker_id, report)
    if came and not roll:
        shell.materials[ours.revision] = ours
        try:
            shell.happen(Reload(ours.revision))
        except CannotDo as refusal:
            log.warning("%s", refusal)


def _in_use(saved: SavedState, config: Config, state_directory: Path) -> Materials:
    """Return the revision that the adopted workers serve; when it cannot be used any more, ours under its number.

    Our configuration is tried after that, like any other reload: it may be newer, and workers may refuse it.
    """
    if saved.config is None:
        return gather(saved.revision, config, state_directory)
    try:
        return gather(saved.revision, Config.from_json(saved.config), state_directory)
    except (ConfigError, ValidationError) as error:
        log.warning("new workers cannot use the configuration of the adopted ones: %s", error)
        return gather(saved.revision, config, state_directory)


def _differences(saved: SavedState, config: Config, missing: list[int]) -> list[str]:
    """Return the differences between an adopted node and its configuration."""
    notes: list[str] = []
    if not fits(config.server.addresses, saved.listeners):
        notes.append("server.listen has changed while no supervisor ran: restart the node to use it")
    if missing:
        log.warning("slots %s were kept by no worker and are opened anew", ", ".join(map(str, missing)))
    return notes
