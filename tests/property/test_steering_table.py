"""The accept table is as even as possible, names only accepting workers, and no entry moves unnecessarily."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from supervisor.steering.spread import fill

SIZE = 64
sets = st.lists(st.integers(0, 65535), unique=True, max_size=20)


def moves(before: list[int | None], after: list[int | None]) -> int:
    return sum(a != b for a, b in zip(before, after, strict=True))


@given(steps=st.lists(sets, min_size=1, max_size=6))
def test_table_is_even_and_moves_few_entries(steps: list[list[int]]) -> None:
    table: list[int | None] = [None] * SIZE
    for accepting in steps:
        before, table = table, fill(table, accepting)
        counts = Counter(table)
        if not accepting:
            assert table == [None] * SIZE
            continue
        assert set(counts) == set(accepting)
        assert max(counts.values()) - min(counts.values()) <= 1
        # A lower bound: entries of workers that do not accept must move, and entries beyond the larger share.
        share, extra = divmod(SIZE, len(accepting))
        held = sorted((before.count(worker_id) for worker_id in accepting), reverse=True)
        kept = sum(min(n, share + (place < extra)) for place, n in enumerate(held))
        assert moves(before, table) == SIZE - kept


def test_entries_move_only_for_the_worker_that_leaves_and_returns() -> None:
    """Of four, a quarter of the entries moves; the others' stay where they are."""
    table = fill([None] * 1024, [1, 2, 3, 4])
    without = fill(table, [1, 2, 4])
    assert moves(table, without) == 256
    assert moves(without, fill(without, [1, 2, 3, 4])) == 256
