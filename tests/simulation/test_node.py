"""Whatever happens to workers and supervisors, and whatever operators request, in any order, these invariants hold:

1. A worker id names one process: it is not lent while another process has it, or while packets for a dead one may come.
2. A slot has at most one live process, and packets for a live worker's id go to its slot. Every id that steering knows
   leads to a worker: the one that has the id, or the one that answers for it; other ids are forgotten.
3. While the node accepts, all workers that are ready and stay get new connections; while none is, new connections wait
   in a socket. No worker drains while new connections go to it. A node that does not accept gets none.
4. No worker serves a configuration that it did not prepare or that was refused, and soon all serve the same one.
5. No worker seals with a key that another worker, or the key file, lacks; every rotation ends.
6. A worker is asked to leave only when another one of its core is ready. One core hands over at a time, a rollout ends,
   and no core keeps two workers.
7. A quiesce or drain is neither forgotten nor invented, and ends; a node that serves has its routes. When the faults
   end, all cores serve.
8. A worker that was told to leave exits. A stop ends: all processes have exited, and the node quits once.
9. Every connection ID that a connection of a live worker holds, or of a dead one held until its packets cannot come any
   more, decodes: in steering and in every worker. Epochs that are not needed are retired.
10. A worker that makes progress is not killed because its heartbeats do not come; one that hangs is.

They hold after every step, and across the deaths of supervisors: between any two commands of any happening, while
nothing happens, while a successor waits for workers, by an upgrade, or together with all workers. In three of four runs
supervisors die.

A failure prints the seed: `SEED=1234 pytest tests/simulation`. test_mutants.py shows that the invariants can be
violated.
"""

from __future__ import annotations

import os

import pytest

from supervisor.node.drain_contract import Terms
from supervisor.node.happenings import AbortOld, DrainNode, Quiesce, QuiesceMode, Restart, Resume, Scale, StopNode
from supervisor.node.lifecycle import NodeState
from supervisor.node.node import Node
from tests.simulation.invariants import Watched, check_recovered, has_recovered
from tests.simulation.world import World

TROUBLE_S = 120.0
ONE_SEED = [int(os.environ["SEED"])] if "SEED" in os.environ else None


def scale(world: World, wanted: int) -> None:
    world.happen(Scale(wanted))


def operate(world: World) -> None:
    """An operator or a fault does something, repeatedly."""
    if not world.trouble:
        return
    dice = world.dice
    world.later(dice.expovariate(0.25), lambda: operate(world))
    if world.deadly and dice.random() < 0.2:
        world.cut_next = True
    node = world.node
    match dice.randint(0, 17):
        case 0 | 1:
            world.happen(Restart())
        case 2:
            world.happen(Restart((dice.randrange(world.cores),)))
        case 3 | 4:
            world.file = next(world.contents)
            if dice.random() < 0.3:
                world.bad_contents.add(world.file)
            world.reload()
        case 17 if dice.random() < 0.6:
            world.happen(DrainNode(Terms(settle_s=4.0, announce_max_s=15.0, spread_s=2.0, max_wait_s=45.0)))
        case 5 | 16:
            mode = dice.choice(list(QuiesceMode))
            world.happen(Quiesce(mode, announce_s=dice.choice([0.0, 5.0]), deadline_s=60.0))
        case 6 | 7:
            world.cut_next |= world.deadly and dice.random() < 0.4
            world.happen(Resume())
        case 8:
            world.happen(Scale(dice.randint(0, world.cores + 1)))
        case 15:
            # Some of the workers that would stay have just died.
            wanted = dice.randint(1, world.cores)
            for process in [p for p in world.alive.values() if p.core < wanted]:
                world.end_of(process, -9)
            world.later(dice.uniform(0.0, 2.0), lambda: scale(world, wanted))
        case 9:
            world.rotate()
        case 10:
            world.happen(AbortOld(60.0))
        case 11 if world.alive:
            world.end(dice.choice(list(world.alive)), -9)
        case 12 if world.deadly and node:
            world.die(world.left_behind())
        case 13 if world.deadly and node and node.state not in (NodeState.STARTING, NodeState.STOPPING):
            if not (node.rollout and node.rollout.running):
                world.exec()
        case 14 if world.deadly and dice.random() < 0.1:
            world.kill_all()


def failed_to_start(world: World) -> bool:
    assert world.quit in (None, 1), "it stopped without a request"
    return world.quit is not None


def uses_the_file(world: World) -> bool:
    return world.node is not None and world.materials[world.node.revision] == world.file


def leaving(world: World) -> bool:
    node = world.node
    return node is not None and node.state is NodeState.QUIESCING and not node.discouraging


def scenario(world: World) -> None:
    """Faults and requests for a while, then recovery, then a stop."""
    world.later(world.dice.uniform(0, 5), lambda: operate(world))
    world.succeed(roll=False)
    world.run_until(TROUBLE_S)
    world.trouble = False
    world.cut_next = False
    for process in world.alive.values():
        if process.behaviour == "refuses":
            process.behaviour = "good"
    if failed_to_start(world):
        return
    world.file = next(world.contents)
    world.run_until(world.now_s + 60.0, lambda: world.node is not None)
    for _ in range(5):
        # Refused while no worker is up to try it, and none has failed yet.
        world.reload()
        world.run_until(world.now_s + 40.0, lambda: not leaving(world))
    if failed_to_start(world):
        return
    assert not leaving(world), "invariant 7: the quiesce did not end"
    world.run_until(world.now_s + 60.0, lambda: world.happen(Resume()))
    for _ in range(3):
        # A worker may still die of an earlier fault while it tries the revision, which is refused then.
        world.reload()
        world.run_until(world.now_s + 200.0, lambda: has_recovered(world))
        if failed_to_start(world):
            return
        if uses_the_file(world):
            break
    check_recovered(world)
    for process in world.alive.values():
        process.behaviour = world.dice.choice(["good", "good", "does not stop"])
    world.happen(StopNode(fast=world.dice.random() < 0.3))
    world.run_until(world.now_s + 60.0)
    assert world.quit == 0, "invariant 8"
    assert not world.alive, "invariant 8: the node quits while a worker lives"


def run(seed: int, node_class: type[Node] = Node) -> World:
    """Run one scenario; an AssertionError says which invariant was violated."""
    world = Watched(seed, deadly=seed % 4 != 0, node_class=node_class)
    try:
        scenario(world)
    except Exception as failure:
        failure.story = world.tell()  # type: ignore[attr-defined]
        raise
    return world


@pytest.mark.parametrize("seeds", [range(150), pytest.param(range(150, 1200), marks=pytest.mark.slow)], ids=str)
def test_invariants_hold(seeds: range) -> None:
    worlds = []
    for seed in ONE_SEED or seeds:
        try:
            worlds.append(run(seed))
        except Exception as failure:
            pytest.fail(f"{getattr(failure, 'story', '')}\nSEED={seed}: {type(failure).__name__} {failure}")
    if not ONE_SEED:
        ended_well = sum(world.quit == 0 for world in worlds)
        assert ended_well > len(worlds) // 2, "most runs should get further than a failed start"
        assert sum(world.deaths for world in worlds) > 2 * len(worlds), "supervisors should die"
