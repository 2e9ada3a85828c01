"""Invariant: durations, sizes and counts are short, and readable without a calculator."""

from __future__ import annotations

from velocity_edge.cli.units import count, duration, size


def test_durations_sizes_and_counts() -> None:
    assert [duration(s) for s in (0.04, 12, 185, 7620, 443000)] == [
        "0.0 s",
        "12 s",
        "3 min 05 s",
        "2 h 07 min",
        "5 d 03 h",
    ]
    assert [size(n) for n in (0, 1023, 1024, 5 * 2**20, 300 * 2**20, 5 * 2**30)] == [
        "0 B", "1023 B", "1 KiB", "5.0 MiB", "300 MiB", "5.0 GiB",
    ]  # fmt: skip
    assert count(1234567) == "1 234 567"
