"""Worker ids are lent in turn; the end of a worker is described in words."""

from __future__ import annotations

import pytest

from supervisor.node.worker import WorkerIds, describe_exit
from velocity_edge.wire import messages


def test_ids_are_reused_as_late_as_possible() -> None:
    ids = WorkerIds(last=4)
    assert [ids.lend(()) for _ in range(5)] == [1, 2, 3, 4, 1]
    assert ids.lend({2, 3}) == 4
    with pytest.raises(RuntimeError):
        ids.lend({1, 2, 3, 4})


@pytest.mark.parametrize(
    ("status", "out_of_memory", "text"),
    [
        (-9, False, "was ended by signal 9"),
        (-9, True, "was killed, probably by the kernel: it has just killed a process because memory ran out"),
        (-11, True, "was ended by signal 11"),
        (messages.EXIT_OUT_OF_MEMORY, False, "exited with 71: it could not allocate memory"),
        (None, False, "ended; its exit status is not known"),
    ],
)
def test_how_a_worker_ended_is_described(status: int | None, out_of_memory: bool, text: str) -> None:
    assert describe_exit(status, out_of_memory=out_of_memory) == text
