"""A real worker process (`python -I -m workers`) under a fake supervisor: the test sends the orders.

    with Bench(site, engine="portable") as bench:
        worker = bench.start()
        bench.serve(worker)                # Equip, UseKeys, Roster, Configure, Activate
        worker.expect(Heartbeat)

Sockets, links and slabs are made by the real code (supervisor/machine/slots.py).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from supervisor.machine.slots import Slots
from tests.support.waiting import poll
from velocity_edge.config.model import Config
from velocity_edge.keys.table import ROOT_BYTES, first_table
from velocity_edge.pki.self_signed import self_signed
from velocity_edge.wire import messages as m
from velocity_edge.wire.channel import Channel, Received, pair

R = TypeVar("R")
NODE_ID = 7
_SO_ATTACH_REUSEPORT_CBPF = 51


class WorkerProcess:
    """One worker, its end of the channel, and all its reports."""

    def __init__(self, worker_id: int, slot: int, engine: str, log: Path, program: list[str], user: str | None) -> None:
        self.worker_id = worker_id
        self.slot = slot
        self.log = log
        ours, theirs = pair()
        self.channel: Channel[m.Report] = Channel(ours, m.decode_report)
        self._end = ours
        self.reports: list[Received[m.Report]] = []
        argv = [*program, "--worker-id", str(worker_id), "--slot", str(slot), "--cpu", "0"]
        argv += ["--channel", str(theirs.fileno()), "--engine", engine, *(["--user", user] if user else [])]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        theirs.close()

    def send(self, order: m.Order, descriptors: list[int] | None = None) -> None:
        self.channel.send(order, descriptors or [])
        poll(lambda: self.channel.flush() or not self.channel.pending, "the worker to read")

    def expect(self, kind: type[R], which: Callable[[R], bool] = lambda _: True, timeout_s: float = 20.0) -> R:
        """Return the next report of this kind (for which *which* holds); earlier ones are dropped."""
        return self.expect_received(kind, which, timeout_s)[0]

    def expect_received(
        self, kind: type[R], which: Callable[[R], bool] = lambda _: True, timeout_s: float = 20.0
    ) -> tuple[R, list[int]]:
        """The same, with the descriptors of the message."""

        def look() -> tuple[R, list[int]] | None:
            self.reports += self.channel.receive()
            while self.reports:
                received = self.reports.pop(0)
                if isinstance(received.message, kind) and which(received.message):
                    return received.message, received.descriptors
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.log.read_text()}")
            return None

        try:
            return poll(look, f"{kind.__name__} of worker {self.worker_id}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text()}") from None

    def hang_up(self) -> None:
        """Simulate the death of the supervisor."""
        self.channel.close()

    def adopted_by(self, listener: socket.socket) -> None:
        """Take the worker's next connection at a successor's socket as the channel."""
        listener.settimeout(10)
        end, _ = listener.accept()
        self.channel = Channel(end, m.decode_report)
        self._end = end
        self.reports = []

    def wait(self, timeout_s: float = 10.0) -> int:
        return self.process.wait(timeout_s)

    def status(self, field: str) -> str:
        """Return a line of /proc/PID/status."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return line.partition(":")[2].strip()
        raise AssertionError(f"no {field}")

    @property
    def title(self) -> str:
        return Path(f"/proc/{self.process.pid}/cmdline").read_bytes().rstrip(b"\0").decode()


class Bench:
    """Slots, keys and a configuration, for some workers."""

    def __init__(self, root: Path, *, engine: str = "portable", cores: int = 1, listen: str = "127.0.0.1") -> None:
        self.root = root
        self.engine = engine
        self.directory = Path(tempfile.mkdtemp(prefix="ve-worker-"))
        self.slots = Slots.open([m.Listener(listen, 0)], cores)
        self.port = self.slots.listeners[0].port
        self.chain = self_signed(self.directory / "state")
        self.table = first_table(os.urandom(ROOT_BYTES), time.time())
        self.workers: list[WorkerProcess] = []
        self.successor = self.directory / "workers.sock"
        self.user: str | None = None
        self.python = [sys.executable, "-I", "-m", "workers"]

        self.steer_all_to(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGKILL)
            worker.process.wait()
            worker.channel.close()
        self.slots.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def steer_all_to(self, slot: int) -> None:
        """Have the kernel give every packet to this slot: a classic BPF program of one instruction, "return slot"."""
        instruction = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, slot), 8)
        program = struct.pack("@HP", 1, ctypes.addressof(instruction))
        self.slots[0].udp[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)

    @property
    def ca(self) -> Path:
        """The self-signed certificate, for clients to trust."""
        return self.directory / "state" / "self-signed.pem"

    def start(self, slot: int = 0) -> WorkerProcess:
        worker_id = 100 + len(self.workers)
        log = self.directory / f"worker-{worker_id}.log"
        worker = WorkerProcess(worker_id, slot, self.engine, log, self.python, self.user)
        self.workers.append(worker)
        return worker

    def config(self, **server: Any) -> Config:
        return Config.from_json(
            {
                "server": {"listen": [f"127.0.0.1:{self.port}"], "tls": {"self_signed": True}, **server},
                "content": {"sites": [{"hostname": "*", "root": str(self.root)}]},
            }
        )

    def equip(self, worker: WorkerProcess) -> m.Hello:
        hello = worker.expect(m.Hello)
        equipment = m.Equip(NODE_ID, self.slots.listeners, len(self.slots), str(self.successor))
        worker.send(equipment, self.slots.equipment(worker.slot))
        return hello

    def roster(self) -> m.Roster:
        return m.Roster({w.worker_id: w.slot for w in self.workers if w.process.poll() is None})

    def configure(self, worker: WorkerProcess, revision: int, config: Config) -> None:
        roots = [str(site.root) for site in config.content.sites]
        fds = [os.open(root, os.O_PATH | os.O_DIRECTORY) for root in roots]
        worker.send(m.Configure(revision, config.to_json(), [self.chain.keyed], roots), fds)
        for fd in fds:
            os.close(fd)

    def serve(self, worker: WorkerProcess, config: Config | None = None) -> None:
        """Bring *worker* all the way to serving revision 1."""
        self.equip(worker)
        worker.send(self.table.order())
        for other in self.workers:
            other.send(self.roster())
        self.configure(worker, 1, config or self.config())
        worker.expect(m.Prepared)
        worker.send(m.Activate(1))
        worker.expect(m.Ready)
