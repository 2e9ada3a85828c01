"""With fewer workers than before, the kernel's table still led some packets to slots without a reader
(nginx#1756). From 4 workers to 1 and back to 4: no id and no entry for new connections leads to an empty slot.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.node import routes
from supervisor.node.commands import Accept, Command, Forget, GiveConfig, Lend, Spawn, Tell
from supervisor.node.happenings import Departed, Exited, Happening, Reported, Scale, Started
from supervisor.node.node import Node
from supervisor.node.state import Settings
from tests.support.loopback_group import Group, group, known, new
from velocity_edge.wire import messages as m

pytestmark = [pytest.mark.root, pytest.mark.slow]


class Played:
    """The real Node and the real steering; workers carry out orders at once."""

    def __init__(self, g: Group) -> None:
        self.steering = g.steering
        self.node = Node(Settings(4, quarantine_s=1000.0), target=4, epochs=(1,), seal_with=1)
        self.alive: dict[int, int] = {}
        self.now_s = 0.0
        self.happen(Started())

    def happen(self, happening: Happening) -> None:
        self.now_s += 0.001
        for command in self.node.handle(happening, self.now_s):
            for following in self.do(command):
                self.happen(following)

    def do(self, command: Command) -> Iterator[Happening]:
        match command:
            case Lend(worker_id, slot, core):
                self.steering.lend(worker_id, slot, core)
            case Forget(worker_id):
                self.steering.forget(worker_id)
            case Accept(worker_ids):
                self.steering.accept(list(worker_ids))
            case Spawn(worker_id, slot, _):
                self.alive[worker_id] = slot
                yield Reported(worker_id, m.Hello(worker_id, 1, "portable", "test"))
            case GiveConfig(worker_id, revision):
                yield Reported(worker_id, m.Prepared(revision))
            case Tell(worker_id, m.Activate(revision)):
                yield Reported(worker_id, m.Ready(revision))
            case Tell(worker_id, m.Drain()):
                yield Reported(worker_id, m.Drained(0))
            case Tell(worker_id, m.Stop()):
                del self.alive[worker_id]
                yield Exited(worker_id, 0)


def four_one_four(g: Group) -> list[set[int]]:
    """Return, for each of the three sizes, the slots without a reader that got something."""
    node, unread = Played(g), []
    ever: set[int] = set()
    for count in (4, 1, 4):
        node.happen(Scale(count))
        assert len(node.alive) == count
        ever |= {*node.alive}
        packets = new(100) + [packet for worker_id in ever for packet in known(worker_id, 5)]
        assert set(g.steering.lent()) == ever  # type: ignore[attr-defined]
        got = g.where(packets)
        assert got.total() == len(packets)
        unread.append(set(got) - set(node.alive.values()))
    return unread


def test_no_id_leads_to_an_empty_slot_after_scaling(cache_dir: Path) -> None:
    with group(8, cache_dir) as g:
        assert four_one_four(g) == [set(), set(), set()]


def test_without_redirection_ids_lead_to_empty_slots(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive version: an id leads to where its worker was."""

    def where_they_were(workers: object, departed: dict[int, Departed]) -> dict[int, tuple[int, int]]:
        living = {v.worker_id: (v.slot, v.core) for v in workers.values()}  # type: ignore[attr-defined]
        return living | {i: (gone.slot, gone.core) for i, gone in departed.items()}

    monkeypatch.setattr(routes, "desired_known", where_they_were)
    with group(8, cache_dir) as g:
        assert four_one_four(g)[1] != set()
