"""Invariant: rotations begin when they are due, make room in advance, and wait rather than close a connection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.admin.describe_keys import degraded_keys, describe_keys
from supervisor.chores.rotation import Rotation
from supervisor.machine.keyring import Keyring
from supervisor.node.commands import GiveKeys, Tell
from supervisor.node.happenings import Happening, Reported, Started
from supervisor.node.node import Node
from supervisor.node.state import Settings
from velocity_edge.config.tickets import Tickets
from velocity_edge.errors import CannotDo
from velocity_edge.wire import messages as m

HOUR_S = 3600.0


class Pretend:
    """What a rotation uses of the shell; one worker that obeys at once, with the connections in `held`."""

    def __init__(self, directory: Path) -> None:
        self.now_s = 0.0
        #: By how much the wall clock was set since the start.
        self.wall_ahead_s = 0.0
        settings = Tickets.model_validate({"rotate_after": "1h", "max_age": "24h"})
        self.active = SimpleNamespace(config=SimpleNamespace(tickets=settings))
        self.keyring = Keyring.open(settings, directory, self.now_s)
        self.node = Node(Settings(1), target=1, epochs=(1,), seal_with=1)
        self.held: dict[int, int] = {}
        self.moves: list[m.Move] = []
        self.happen(Started())
        for report in (m.Hello(1, 4242, "native", "test"), m.Prepared(1), m.Ready(1)):
            self.happen(Reported(1, report))

    def wall_clock(self) -> float:
        return self.now_s + self.wall_ahead_s

    def steady_clock(self) -> float:
        return self.now_s

    def happen(self, happening: Happening) -> None:
        commands = self.node.handle(happening, self.now_s)
        self.keyring.follow(self.node.seal_with, self.node.cid_epochs)
        for command in commands:
            match command:
                case GiveKeys(worker_id, epochs, seal_with):
                    closed = list(self.keyring.table.closed)
                    self.happen(Reported(worker_id, m.KeysInUse(list(epochs), seal_with, closed)))
                case Tell(_, m.Move() as order):
                    self.moves.append(order)
        if not isinstance(happening, Reported):
            self.beat()

    def beat(self) -> None:
        counts = {epoch % 7: number for epoch, number in self.held.items()}
        self.happen(Reported(1, m.Heartbeat(0, 0, 0, 0.0, 0, counts)))

    def hours(self, number: int, rotation: Rotation) -> None:
        for _ in range(number):
            # Heartbeats, so that the worker does not count as hung.
            for _ in range(400):
                self.now_s += 9.0
                self.beat()
            rotation.look()


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    return Pretend(tmp_path)


def test_a_rotation_begins_every_hour_when_no_connection_stays(shell: Any) -> None:
    rotation = Rotation(shell)
    shell.hours(24, rotation)
    assert shell.node.seal_with == 25
    assert shell.keyring.table.cid_live == (25, 24), "the previous epoch lingers"
    assert shell.moves == []


def test_a_connection_that_stays_is_asked_to_move_in_time_and_delays_the_rotation(shell: Any) -> None:
    rotation = Rotation(shell)
    shell.held[1] = 3
    shell.hours(4, rotation)
    assert shell.moves == []
    shell.hours(2, rotation)
    assert (shell.node.seal_with, shell.moves[0].epochs) == (7, [1])
    assert shell.moves[0].spread_s == HOUR_S / 10
    # It does not move: the rotation waits, and `degraded` says for what.
    shell.hours(3, rotation)
    assert (shell.node.seal_with, rotation.waits_for) == (7, 1)
    [sentence] = degraded_keys(shell)
    assert "the keys cannot rotate" in sentence
    assert "epoch 1, which 3 connections use" in sentence
    with pytest.raises(CannotDo, match="epoch 8 needs the connection IDs of epoch 1"):
        rotation.begin()
    rows = {row["epoch"]: row for row in describe_keys(shell)["epochs"]}
    assert (rows[1]["connections"], rows[1]["ids_live"], rows[7]["state"]) == (3, True, "seals")
    # It moves: rotations continue.
    shell.held.clear()
    shell.hours(2, rotation)
    assert shell.node.seal_with == 9
    assert list(degraded_keys(shell)) == []


def test_an_epoch_that_opens_has_the_time_of_its_end(shell: Any) -> None:
    rotation = Rotation(shell)
    shell.hours(2, rotation)
    rows = describe_keys(shell)["epochs"]
    assert [(row["epoch"], row["state"]) for row in rows] == [(3, "seals"), (2, "opens"), (1, "opens")]
    # Epoch 1 sealed until epoch 2 began, an hour after the node; what it sealed then is valid for a day.
    assert [row["opens_until_s"] for row in rows] == [None, 26 * HOUR_S, 25 * HOUR_S]


def test_a_rotation_that_an_earlier_supervisor_began_is_finished_first(shell: Any) -> None:
    shell.keyring.announce(shell.active.config.tickets, 0.0)
    shell.node.announced = 2
    Rotation(shell).look()
    assert (shell.node.seal_with, shell.keyring.table.announced) == (2, 0)


# --- a wrong clock


@pytest.mark.parametrize("ahead_s", [10 * 365 * 24 * HOUR_S, -10 * 365 * 24 * HOUR_S, HOUR_S, -HOUR_S])
def test_a_wall_clock_that_is_set_neither_stops_nor_multiplies_rotations(
    shell: Any, ahead_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    rotation = Rotation(shell)
    shell.hours(2, rotation)
    shell.wall_ahead_s = ahead_s
    shell.hours(3, rotation)
    shell.wall_ahead_s = 0.0
    shell.hours(3, rotation)
    assert shell.node.seal_with == 9, "one per hour"
    assert [row["age_s"] for row in describe_keys(shell)["epochs"]] == [n * HOUR_S for n in range(9)]
    said = [record.message for record in caplog.records if "was set by" in record.message]
    assert [line.split("by ")[1].split(" s ")[0] for line in said] == [f"{ahead_s:+.0f}", f"{-ahead_s:+.0f}"]


def test_the_end_of_an_epoch_is_given_by_the_wall_clock(shell: Any) -> None:
    rotation = Rotation(shell)
    shell.hours(1, rotation)
    shell.wall_ahead_s = 500.0
    assert [row["opens_until_s"] for row in describe_keys(shell)["epochs"]] == [None, 25 * HOUR_S + 500.0]


def test_a_key_from_the_future_counts_as_created_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The clock was ten years ahead when it was created; the next rotation must not wait ten years."""
    settings = Tickets.model_validate({"rotate_after": "1h", "max_age": "24h"})
    ten_years_s = 10 * 365 * 24 * HOUR_S
    Keyring.open(settings, tmp_path, ten_years_s)
    shell: Any = Pretend(tmp_path)
    assert "up to 315360000 s ahead" in caplog.text
    [sentence] = degraded_keys(shell)
    assert "was created 315360000 s in the future" in sentence
    rotation = Rotation(shell)
    shell.hours(3, rotation)
    assert shell.node.seal_with == 4
    assert list(degraded_keys(shell)) == []


def test_frequent_restarts_do_not_delay_a_rotation(tmp_path: Path) -> None:
    settings = Tickets.model_validate({"rotate_after": "1h", "max_age": "24h"})
    Keyring.open(settings, tmp_path, 100 * HOUR_S)
    due = [
        Keyring.open(settings, tmp_path, minutes * 60.0).due(settings, minutes * 60.0) for minutes in (0, 20, 40, 61)
    ]
    assert due == [False, False, False, True]


def test_a_clock_that_was_behind_costs_one_rotation(tmp_path: Path) -> None:
    """The clock was not set at boot: keys are of 1970. With the right time they are too old, once."""
    shell: Any = Pretend(tmp_path)
    shell.hours(1, Rotation(shell))
    settings = shell.active.config.tickets
    ring = Keyring.open(settings, tmp_path, 50 * 365 * 24 * HOUR_S)
    assert ring.due(settings, 50 * 365 * 24 * HOUR_S)
    number = ring.announce(settings, 50 * 365 * 24 * HOUR_S)
    ring.follow(number, ring.epochs)
    again = Keyring.open(settings, tmp_path, 50 * 365 * 24 * HOUR_S + 60.0)
    assert not again.due(settings, 50 * 365 * 24 * HOUR_S + 60.0)
    assert {1, 2} < set(again.epochs), "they still open"


def test_imported_keys_from_the_future_count_as_new(tmp_path: Path) -> None:
    settings = Tickets()
    there = Keyring.open(settings, tmp_path / "there", 900 * HOUR_S, living=False)
    here = Keyring.open(settings, tmp_path / "here", 0.0)
    here.announce(settings, 0.0)
    here.merge([replace(there.table.epochs[0], epoch=9)], HOUR_S)
    assert max(epoch.created_s for epoch in here.table.epochs) == HOUR_S
