"""The channels and processes of workers: reports and exits become happenings, orders go out."""

from __future__ import annotations

import os
from collections.abc import Sequence

from supervisor.machine import spawn
from supervisor.machine.spawn import Process
from supervisor.node.happenings import Broke, Exited, HungUp, Reported
from supervisor.resources import Resources
from velocity_edge.wire import messages
from velocity_edge.wire.channel import Channel, ChannelFull


def attach(shell: Resources, worker_id: int, process: Process, channel: Channel[messages.Report]) -> None:
    """Watch a worker's channel, and its process for the exit."""
    shell.processes[worker_id], shell.channels[worker_id] = process, channel
    shell.start_ticks[worker_id] = spawn.start_ticks(process.pid) or 0
    shell.loop.add_reader(process.pidfd, _on_exit, shell, worker_id)
    shell.loop.add_reader(channel.fileno(), _on_report, shell, worker_id)
    left_s = shell.log_levels_until_s - shell.clock()
    if shell.log_levels and left_s > 0:
        send(shell, worker_id, messages.SetLogLevels(shell.log_levels, left_s))


def send(shell: Resources, worker_id: int, order: messages.Order, descriptors: Sequence[int] = ()) -> None:
    """Send an order. A worker that does not read its channel breaks the protocol."""
    channel = shell.channels.get(worker_id)
    if channel is None:
        return  # it hung up; its exit follows
    try:
        channel.send(order, descriptors)
    except ChannelFull as error:
        _detach_channel(shell, worker_id)
        shell.loop.call_soon(shell.happen, Broke(worker_id, f"it does not read its channel: {error}"))
        return
    _watch_writable(shell, worker_id, channel)


def hear(shell: Resources, worker_id: int, report: messages.Report) -> None:
    """Take a report: measurements are summed, everything else is a matter of the node."""
    if isinstance(report, messages.Measured):
        shell.sums.take(worker_id, report.series, report.gone)
    else:
        shell.happen(Reported(worker_id, report))


def set_log_levels(shell: Resources, levels: str, for_s: float) -> None:
    """Log at these levels for this time, here and in all workers; "" ends it."""
    shell.log_levels, shell.log_levels_until_s = levels, shell.clock() + for_s
    shell.on_log_levels(levels)
    for worker_id in shell.channels:
        send(shell, worker_id, messages.SetLogLevels(levels, for_s))
    if levels:
        shell.loop.call_later(for_s, _log_levels_end, shell)


def _log_levels_end(shell: Resources) -> None:
    """The time of `set_log_levels` is over, unless it was set again. Workers know it by themselves."""
    if shell.log_levels and shell.clock() >= shell.log_levels_until_s:
        shell.log_levels = ""
        shell.on_log_levels("")


def _on_exit(shell: Resources, worker_id: int) -> None:
    _on_report(shell, worker_id)  # what it sent before it exited
    _detach_channel(shell, worker_id)
    process = shell.processes.pop(worker_id)
    shell.loop.remove_reader(process.pidfd)
    status = process.exit_status()
    process.close()
    shell.sums.ended(worker_id)
    shell.sums_file.save(shell.sums)
    shell.slots[shell.node.workers[worker_id].slot].slab.take_over()
    shell.happen(Exited(worker_id, status, out_of_memory=shell.out_of_memory.happened()))


def _on_report(shell: Resources, worker_id: int) -> None:
    channel = shell.channels.get(worker_id)
    if channel is None:
        return
    try:
        received = channel.receive()
    except messages.MessageError as error:
        _detach_channel(shell, worker_id)
        shell.happen(Broke(worker_id, str(error)))
        return
    for item in received:
        for fd in item.descriptors:
            os.close(fd)  # none was asked for; the node condemns a worker that sends `Held`
        hear(shell, worker_id, item.message)
    if channel.closed and worker_id in shell.channels:
        _detach_channel(shell, worker_id)
        shell.happen(HungUp(worker_id))


def _on_writable(shell: Resources, worker_id: int) -> None:
    channel = shell.channels[worker_id]
    channel.flush()
    _watch_writable(shell, worker_id, channel)


def _watch_writable(shell: Resources, worker_id: int, channel: Channel[messages.Report]) -> None:
    if channel.pending and worker_id not in shell.writing:
        shell.writing.add(worker_id)
        shell.loop.add_writer(channel.fileno(), _on_writable, shell, worker_id)
    elif not channel.pending and worker_id in shell.writing:
        shell.writing.discard(worker_id)
        shell.loop.remove_writer(channel.fileno())


def _detach_channel(shell: Resources, worker_id: int) -> None:
    channel = shell.channels.pop(worker_id, None)
    if channel is None:
        return
    shell.loop.remove_reader(channel.fileno())
    if worker_id in shell.writing:
        shell.writing.discard(worker_id)
        shell.loop.remove_writer(channel.fileno())
    channel.close()
