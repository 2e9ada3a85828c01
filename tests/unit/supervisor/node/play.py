"""A node with a clock for the tests of this folder: `play(happening)` returns its commands without log lines."""

from __future__ import annotations

from supervisor.node import commands, happenings
from supervisor.node.node import Node
from supervisor.node.state import Settings
from velocity_edge.wire import messages

HELLO = {"pid": 4242, "engine": "portable", "engine_reason": "test"}


class Play:
    def __init__(self, cores: int = 1) -> None:
        self.node = Node(Settings(cores), target=cores, epochs=(1,), seal_with=1)
        self.now_s = 1000.0

    def __call__(self, happening: happenings.Happening, after_s: float = 0.0) -> list[commands.Command]:
        self.now_s += after_s
        return [c for c in self.node.handle(happening, self.now_s) if not isinstance(c, commands.Say)]

    def says(self, worker_id: int, report: messages.Report) -> list[commands.Command]:
        return self(happenings.Reported(worker_id, report))

    def ready(self, worker_id: int) -> list[commands.Command]:
        self.says(worker_id, messages.Hello(worker_id, **HELLO))
        self.says(worker_id, messages.Prepared(self.node.revision))
        return self.says(worker_id, messages.Ready(self.node.revision))
