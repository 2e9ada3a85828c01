"""The changes made to a subject, and when: two threads, so that reloads and kills also happen during rollouts.

One thread does the rollouts (restarts and upgrades), one after the other with random pauses; the other the rest, at
random times of the run. A change that fails because of another one (a restart whose supervisor was killed) is noted and
repeated; only successful ones count.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

ROLLOUTS = ("restart", "upgrade")
#: How often a change may fail before it is given up.
_TRIES = 3
_SHARE_OF_OTHERS = 0.6


@dataclass(frozen=True, slots=True)
class Done:
    """One change. Wall clock times; an empty note is a success."""

    kind: str
    began_s: float
    ended_s: float
    note: str


@dataclass(slots=True)
class Hands:
    """Carries out a plan."""

    deeds: Mapping[str, Callable[[], str]]
    dice: random.Random
    #: Between rollouts, at most.
    pause_s: float = 2.0
    done: list[Done] = field(default_factory=list)

    def run(self, plan: Mapping[str, int], seconds: float) -> None:
        """Make each kind of change in *plan* that often within *seconds*; return when all are done or the time is over.

        Changes other than rollouts are scheduled in the first part of that time, so that all are done early when
        rollouts are quick.
        """
        end_s = time.time() + seconds
        kinds = [kind for kind, times in plan.items() for _ in range(times) if kind in self.deeds]
        self.dice.shuffle(kinds)
        rollouts = [kind for kind in kinds if kind in ROLLOUTS]
        others = [kind for kind in kinds if kind not in ROLLOUTS]
        # Each thread has its own seed, so that the pace of one does not change the times of the other.
        pauses = random.Random(self.dice.random())
        times = sorted(self.dice.random() * seconds * _SHARE_OF_OTHERS for _ in others)
        first = threading.Thread(target=self._one_after_the_other, args=(rollouts, pauses, end_s))
        first.start()
        start_s = end_s - seconds
        for kind, at_s in zip(others, times, strict=True):
            _wait_until(start_s + at_s)
            self.do(kind)
        first.join()

    def _one_after_the_other(self, kinds: list[str], pauses: random.Random, end_s: float) -> None:
        for kind in kinds:
            for _ in range(_TRIES):
                if time.time() > end_s:
                    return
                if self.do(kind):
                    break
            _wait_until(time.time() + pauses.random() * self.pause_s)

    def do(self, kind: str) -> bool:
        """Make one change now; return whether it succeeded."""
        began_s = time.time()
        try:
            note = self.deeds[kind]()
        except Exception as error:
            note = f"{type(error).__name__}: {error}"
        self.done.append(Done(kind, began_s, time.time(), note))
        return not note

    def succeeded(self) -> Counter[str]:
        """Return how often each kind of change succeeded."""
        return Counter(done.kind for done in self.done if not done.note)


def _wait_until(at_s: float) -> None:
    while (left_s := at_s - time.time()) > 0:
        time.sleep(min(left_s, 0.5))
