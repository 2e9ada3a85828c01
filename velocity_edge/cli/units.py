"""Formats durations, sizes and counts for people. Short because each is a few lines."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return "0.4 s", "12 s", "3 min 05 s", "2 h 07 min", "5 d 03 h"."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = int(seconds)
    for size, name, small, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // small:02} {small_name}"
    return f"{whole} s"


def size(n_bytes: float) -> str:
    """Return "512 B", "37 KiB", "1.2 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}" if unit != "MiB" or n_bytes >= 100 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} GiB"


def count(number: float) -> str:
    """Return 1234567 as "1 234 567"."""
    return f"{int(number):,}".replace(",", " ")
