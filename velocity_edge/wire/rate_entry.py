"""What one entry of the rate cells holds, and how a change of it is said: what rate_cells.py keeps and its users decide
upon. Pure. Short because it is only the shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

#: Words of 64 bits, for the user.
STATE_WORDS: Final = 14
#: How much of its limit an entry has used: all of it.
MAX_WEIGHT: Final = (1 << 24) - 1

#: The words of an entry, or of none: all zero.
State = Sequence[int]
EMPTY: Final[State] = (0,) * STATE_WORDS

Answer = TypeVar("Answer")
#: What the caller wants to know, and: until when the entry means something (CLOCK_MONOTONIC in ms, 40 bits), its weight
#: (0 to MAX_WEIGHT) and its new words; None leaves the entry as it is.
Change = tuple[Answer, tuple[int, int, State] | None]
