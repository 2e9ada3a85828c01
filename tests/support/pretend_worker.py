"""A fake worker without QUIC, for tests of the supervisor: it follows the protocol and answers each datagram.

    pretend_worker.py CHARACTER --worker-id N --slot S --cpu C --channel FD

Characters: `good`; `exits` at once; `refuses` every configuration; `mute` (never says Hello); `stuck` (serves, then its
loop hangs: no heartbeat); `picky` (refuses a configuration whose log level is debug); `slow` (ready after a second);
`busy` (has two connections with three requests that never end: only the deadline of a drain does it).
What it sends back: its worker id, a space, and the datagram.
"""

import argparse
import math
import os
import select
import signal
import socket
import sys
import time
from dataclasses import replace

from velocity_edge import __version__
from velocity_edge.wire import messages as m
from velocity_edge.wire.channel import Channel


class Pretend:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.channel: Channel[m.Order] | None = Channel(socket.socket(fileno=arguments.channel), m.decode_order)
        self.sockets: list[socket.socket] = []
        self.held: dict[int, list[int]] = {}
        self.successor = ""
        self.revision = 0
        self.draining = False
        self.answered = 0
        self.beat_s = 0.0
        self.cut_at_s = math.inf
        self.cut = False
        self.told_at_s = math.inf
        self.running = True

    def say(self, report: m.Report, descriptors: list[int] | None = None) -> None:
        if self.channel:
            self.channel.send(report, descriptors or [])

    def hello(self) -> None:
        engine = f"pretend ({self.arguments.character})"
        ident = self.arguments.worker_id
        hello = m.Hello(ident, os.getpid(), engine, "a test", revision=self.revision, draining=self.draining)
        self.say(replace(hello, version=__version__))

    def run(self) -> None:
        self.hello()
        while self.running:
            fds = [s.fileno() for s in self.sockets] + ([self.channel.fileno()] if self.channel else [])
            for fd in select.select(fds, [], [], 0.1)[0]:
                if self.channel and fd == self.channel.fileno():
                    self.hear()
                else:
                    self.answer(fd)
            if time.monotonic() - self.beat_s > 0.5 and self.revision:
                self.beat_s = time.monotonic()
                self.beat()
            if self.draining and time.monotonic() >= self.cut_at_s:
                self.cut_at_s, self.cut = math.inf, True
                self.say(m.Drained(3, 2))
            if self.channel is None:
                self.look_for_successor()

    def measured(self) -> None:
        self.say(m.Measured({"velocity_rate_limited_total": [(["pretend"], [self.answered])]}))

    def beat(self) -> None:
        self.measured()
        if self.arguments.character != "busy" or self.cut:
            self.say(m.Heartbeat(0, 0, self.answered, 0.1, 1024, {}))
            return
        oldest = [m.OpenConnection("example.com", 460.0, 2), m.OpenConnection("", 12.0, 1)]
        left = m.Left(2 if time.monotonic() >= self.told_at_s else 0, 3, oldest) if self.draining else None
        self.say(m.Heartbeat(2, 0, self.answered, 0.1, 1024, {}, left))

    def answer(self, fd: int) -> None:
        sock = next(s for s in self.sockets if s.fileno() == fd)
        try:
            data, peer = sock.recvfrom(65536)
        except BlockingIOError:
            return
        sock.sendto(b"%d %s" % (self.arguments.worker_id, data), peer)
        self.answered += 1

    def hear(self) -> None:
        assert self.channel is not None
        for received in self.channel.receive():
            self.obey(received.message, received.descriptors)
        if self.channel and self.channel.closed:
            self.channel = None

    def obey(self, order: m.Order, fds: list[int]) -> None:
        character = self.arguments.character
        match order:
            case m.Equip(_, listeners, slots, successor):
                links_end = len(listeners) + 1 + slots
                assert len(fds) > links_end
                self.udp, self.successor = fds[: len(listeners)], successor
                link, own = fds[len(listeners)], fds[len(listeners) + 1 + self.arguments.slot]
                # The slab, and what later versions have added.
                self.held[self.arguments.slot] = [*self.udp, link, own, *fds[links_end:]]
            case m.Keep(slot):
                self.held[slot] = fds
            case m.UseKeys(epochs, seal_with, _, closed):
                self.say(m.KeysInUse([e.epoch for e in epochs], seal_with, closed))
            case m.Configure(revision, config, chains, roots):
                assert len(fds) == len(roots) == 1
                assert b"PRIVATE KEY" in chains[0].private_key_pem
                picky = character == "picky" and config["server"]["log_level"] == "debug"
                if character == "refuses" or picky:
                    self.say(m.Refused(revision, "cannot use this: I am a picky one"))
                else:
                    self.say(m.Prepared(revision))
            case m.Activate(revision):
                if character == "slow":
                    time.sleep(1)
                if not self.revision:
                    self.sockets = [socket.socket(fileno=fd) for fd in self.udp]
                self.revision = revision
                self.say(m.Ready(revision))
                self.say(m.Heartbeat(0, 0, 0, 0.1, 1024, {}))
                if character == "stuck":
                    time.sleep(1000)
            case m.Drain(deadline_s, spread_s, discourage):
                if not self.draining:
                    self.told_at_s = time.monotonic() + spread_s
                self.draining = True
                if self.cut:
                    self.say(m.Drained(3, 2))
                elif character == "busy" and not discourage:
                    self.cut_at_s = time.monotonic() + deadline_s
                elif not discourage:
                    self.say(m.Drained(0))
            case m.Resume():
                self.draining, self.cut_at_s = False, math.inf
            case m.Stop():
                for sock in self.sockets:
                    while True:  # waiting datagrams are answered: a real worker would reset or close
                        before = self.answered
                        self.answer(sock.fileno())
                        if self.answered == before:
                            break
                self.running = False
            case m.Abort():
                self.say(m.Aborted(2, 1))
            case m.Roster() | m.Move() | m.SetLogLevels():
                pass

    def look_for_successor(self) -> None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            end.connect(self.successor)
        except OSError:
            end.close()
            return
        self.channel = Channel(end, m.decode_order)
        self.hello()
        self.measured()
        # Its own descriptor last, as that is what a supervisor waits for.
        for slot, fds in reversed(self.held.items()):
            self.say(m.Held(slot), fds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("character")
    for name in ("worker-id", "slot", "cpu", "channel"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--check", action="version", version="pretend")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if arguments.character == "exits":
        sys.exit(3)
    if arguments.character == "mute":
        time.sleep(1000)
    Pretend(arguments).run()


if __name__ == "__main__":
    main()
