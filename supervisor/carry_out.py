"""The commands of the node, carried out: messages to workers, processes, steering, the disable file, the log.

No decision is made here. Orders that need more than their fields (descriptors, keys, a configuration) get it here.
"""

from __future__ import annotations

import logging
from typing import assert_never

from supervisor import worker_links
from supervisor.machine import spawn
from supervisor.machine.materials import Materials
from supervisor.node import commands
from supervisor.node.happenings import DisableFileRemoved, DisableFileWritten, Exited
from supervisor.resources import Resources
from velocity_edge.wire import channel, messages

log = logging.getLogger("supervisor")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def carry_out(shell: Resources, command: commands.Command) -> None:
    """Carry out one command."""
    match command:
        case commands.Spawn():
            _spawn(shell, command)
        case commands.Kill(worker_id):
            if process := shell.processes.get(worker_id):
                process.kill()
        case commands.Equip():
            _equip(shell, command)
        case commands.Keep(worker_id, slot):
            _keep(shell, worker_id, slot)
        case commands.GiveKeys(worker_id, epochs, seal_with):
            worker_links.send(shell, worker_id, shell.keyring.order(epochs, seal_with))
        case commands.GiveConfig(worker_id, revision):
            _give_config(shell, worker_id, shell.materials[revision], revision)
        case commands.Tell(worker_id, order):
            worker_links.send(shell, worker_id, order)
        case commands.Lend(worker_id, slot, core):
            shell.steering.lend(worker_id, slot, shell.cpus[core])
        case commands.Forget(worker_id):
            shell.steering.forget(worker_id)
        case commands.Accept(worker_ids):
            shell.steering.accept(list(worker_ids))
        case commands.UseCidKeys():
            shell.steering.use_cid_configs(shell.keyring.cid_configs())
        case commands.WriteDisableFile(reason):
            # Later: its result is another happening.
            shell.loop.call_soon(_disable, shell, reason)
        case commands.RemoveDisableFile():
            shell.loop.call_soon(_enable, shell)
        case commands.Activated():
            use_dispatch_settings(shell)
            shell.on_activated()
        case commands.Say(text, level):
            log.log(_LEVELS[level], "%s", text)
            for listener in list(shell.listeners):
                listener(level, text)
        case commands.Quit(exit_code):
            shell.finished.set_result(exit_code)
        case _ as forgotten:
            assert_never(forgotten)


def use_dispatch_settings(shell: Resources) -> None:
    """Give the shield the limits of the active revision."""
    dispatch = shell.active.config.dispatch
    shell.steering.limits(
        initials_per_s=dispatch.initials_per_s,
        burst=dispatch.initials_burst,
        slip=dispatch.slip,
        attack=dispatch.attack,
    )
    shell.steering.deny(dispatch.denied)


def _disable(shell: Resources, reason: str) -> None:
    """Write the disable file, as a whole: a health checker that reads it meanwhile sees all of it or none."""
    error = shell.disable_file.should_be(f"{reason or 'drain'}\n".encode(), again=True)
    shell.happen(DisableFileWritten(error))
    if error and not (shell.node.contract and shell.node.contract.holds):
        shell.disable_file.give_up()


def _enable(shell: Resources) -> None:
    if not shell.disable_file.should_be(None, again=True):
        shell.happen(DisableFileRemoved())


def retry_disable_file(shell: Resources) -> None:
    """Try again to write or remove the disable file, where that failed."""
    if shell.disable_file.behind and not shell.disable_file.retry():
        there = shell.node.contract is not None and shell.node.contract.holds
        shell.happen(DisableFileWritten("") if there else DisableFileRemoved())


def _spawn(shell: Resources, command: commands.Spawn) -> None:
    ours, theirs = channel.pair()
    try:
        cpu = shell.cpus[command.core]
        process = spawn.spawn(
            shell.worker_program, command.worker_id, command.slot, cpu, theirs, patient=command.patient
        )
    except OSError as error:
        log.error("cannot start worker %d: %s", command.worker_id, error.strerror)
        ours.close()
        shell.loop.call_soon(shell.happen, Exited(command.worker_id, None))
        return
    finally:
        theirs.close()
    worker_links.attach(shell, command.worker_id, process, channel.Channel(ours, messages.decode_report))
    if command.patient:
        shell.loop.call_later(spawn.PATIENCE_S, _hurry, shell, command.worker_id)


def _hurry(shell: Resources, worker_id: int) -> None:
    if worker_id in shell.processes:
        shell.processes[worker_id].hurry()


def _equip(shell: Resources, command: commands.Equip) -> None:
    if shell.slots[command.slot].renew_slab(command.slot):
        shell.store.renew_slab(command.slot, shell.slots[command.slot].slab_fd)
        # The keepers of this slot should hold the slab that counts from now on.
        for keeper in shell.node.workers.values():
            keeps = keeper.slot == command.keep or command.slot in keeper.keeps
            if keeps and keeper.worker_id != command.worker_id:
                _keep(shell, keeper.worker_id, command.slot)
    path = str(shell.places.workers_socket)
    order = messages.Equip(shell.node_id, shell.slots.listeners, len(shell.slots), path)
    worker_links.send(shell, command.worker_id, order, shell.slots.equipment(command.slot))
    _keep(shell, command.worker_id, command.keep)


def _keep(shell: Resources, worker_id: int, slot: int) -> None:
    worker_links.send(shell, worker_id, messages.Keep(slot), shell.slots[slot].bundle.pack())


def _give_config(shell: Resources, worker_id: int, materials: Materials, revision: int) -> None:
    order = messages.Configure(revision, materials.config_json, materials.chains, list(materials.roots))
    worker_links.send(shell, worker_id, order, list(materials.roots.values()))
