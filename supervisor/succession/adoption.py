"""Adopting the workers of a supervisor that died: they serve on, and connect to `<runtime>/workers.sock`.

    state.json names the workers     -> their processes are still the same ones (pid and start time)
    each connects within a second    -> SO_PEERCRED: it is that process
    Hello, Held, Held                -> the sockets, links and slabs of its slot and of its core's other slot

Each slot is held by the workers of its core; those of a core without a worker are held by two workers of other cores
(core.py). So every socket comes back as long as those live. A slot that no worker holds is opened anew (slots.py). A
worker that does not connect in time hangs: it is killed and replaced. Packets are not affected: packet programs keep
steering, workers keep serving, and no socket in use is bound again or closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from supervisor.machine import spawn
from supervisor.machine.slots import Slot
from supervisor.machine.spawn import Process
from supervisor.succession.saved_state import SavedState, SavedWorker
from supervisor.succession.translate import worth_keeping
from velocity_edge.wire import messages
from velocity_edge.wire.bundle import Bundle, MissingDescriptors
from velocity_edge.wire.channel import Channel, Received

log = logging.getLogger(__name__)

#: Workers try to connect every second; a loaded one needs longer.
PATIENCE_S: Final = 6.0
#: SIGKILL takes milliseconds, unless the machine is out of memory or disks.
_GONE_WITHIN_S: Final = 5.0
_BACKLOG: Final = 512


@dataclass(slots=True)
class Returned:
    """A worker that has connected."""

    saved: SavedWorker
    channel: Channel[messages.Report]
    process: Process
    hello: messages.Hello | None = None
    slots: set[int] = field(default_factory=set)
    #: Its reports after Held, while other workers were awaited.
    later: list[messages.Report] = field(default_factory=list)


class Adoption:
    """Waits for the workers of *saved*."""

    def __init__(self, path: Path, saved: SavedState) -> None:
        self._path = path
        self._saved = saved
        self._missing: dict[int, SavedWorker] = {}
        self._came: dict[int, Returned] = {}
        #: The slots that came back.
        self.held: dict[int, Slot] = {}
        self._complete = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def gather(self) -> list[Returned]:
        """Return the workers that came back; all others are dead then."""
        for worker in self._saved.workers:
            if spawn.start_ticks(worker.pid) == worker.start_ticks:
                self._missing[worker.pid] = worker
        if not self._missing:
            return []
        log.info("waiting for %d workers of an earlier supervisor", len(self._missing))
        listening = listen(self._path)
        self._loop.add_reader(listening.fileno(), self._accept, listening)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._complete.wait()
        except TimeoutError:
            pass
        finally:
            self._loop.remove_reader(listening.fileno())
            listening.close()
            self._path.unlink(missing_ok=True)
            for returned in self._came.values():
                self._stop_listening(returned)
        return self._sort_out()

    def _accept(self, listening: socket.socket) -> None:
        try:
            end, _ = listening.accept()
        except OSError:
            return
        pid = struct.unpack("=iII", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        worker = self._missing.get(pid)
        if worker is None or spawn.start_ticks(pid) != worker.start_ticks or pid in self._came:
            log.warning("process %d connected to %s but is not our worker", pid, self._path)
            end.close()
            return
        try:
            process = spawn.adopt(pid)
        except ProcessLookupError:
            end.close()
            return
        returned = Returned(worker, Channel(end, messages.decode_report), process)
        self._came[pid] = returned
        self._loop.add_reader(returned.channel.fileno(), self._hear, returned)

    def _hear(self, returned: Returned) -> None:
        try:
            received = returned.channel.receive()
        except messages.MessageError as error:
            log.error("worker %d: %s", returned.saved.worker_id, error)
            self._stop_listening(returned)
            returned.channel.close()
            return
        for item in received:
            self._take(returned, item)
        if returned.channel.closed:
            self._stop_listening(returned)
        if set(self._came) == set(self._missing) and all(map(self._complete_of, self._came.values())):
            self._complete.set()

    def _stop_listening(self, returned: Returned) -> None:
        if (fd := returned.channel.fileno()) >= 0:  # it may have been closed because of an invalid message
            self._loop.remove_reader(fd)

    def _take(self, returned: Returned, item: Received[messages.Report]) -> None:
        match item.message:
            case messages.Hello():
                returned.hello = item.message
            case messages.Held(slot):
                returned.slots.add(slot)
                # The slot's own worker has its current slab; a worker that only keeps the slot may have an earlier one.
                own = slot == returned.saved.slot
                if 0 <= slot < 2 * self._saved.cores and (own or slot not in self.held):
                    try:
                        bundle = Bundle.unpack(item.descriptors, len(self._saved.listeners))
                    except MissingDescriptors as error:
                        log.error("worker %d: cannot take over slot %d: %s", returned.saved.worker_id, slot, error)
                    else:
                        if before := self.held.pop(slot, None):
                            before.close()
                        self.held[slot] = Slot.of(bundle, slot)
                        return
            case report:
                returned.later.append(report)
        for fd in item.descriptors:
            os.close(fd)

    def _complete_of(self, returned: Returned) -> bool:
        own = returned.saved.slot
        cores = self._saved.cores
        other = own + cores if own < cores else own - cores
        return returned.hello is not None and {own, other} <= returned.slots

    def _usable(self, returned: Returned) -> bool:
        hello, own_slot = returned.hello, returned.saved.slot
        if hello is None or returned.channel.closed or own_slot not in self.held:
            return False
        return worth_keeping(hello)

    def _sort_out(self) -> list[Returned]:
        """Return the usable workers; kill the others, so that none serves in a slot that another worker gets."""
        good: list[Returned] = []
        for pid, worker in self._missing.items():
            returned = self._came.get(pid)
            if returned and self._usable(returned):
                good.append(returned)
                continue
            log.error("worker %d (process %d) did not report in time and in full: killed", worker.worker_id, pid)
            try:
                process = returned.process if returned else spawn.adopt(pid)
            except ProcessLookupError:
                continue
            process.kill()
            # Until it has exited its sockets are in the reuseport group, and no other process can bind the port.
            if not process.wait(_GONE_WITHIN_S):
                log.error("worker %d (process %d) does not exit after SIGKILL", worker.worker_id, pid)
            process.close()
            if returned:
                returned.channel.close()
        return good


def listen(path: Path) -> socket.socket:
    """Return a listening socket for workers. Any process may connect; SO_PEERCRED tells which one it is."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    listening.bind(str(path))
    path.chmod(0o666)
    listening.listen(_BACKLOG)
    return listening
