"""What handlers keep from one revision to the next: file caches today, connection pools and health checks to come.

A revision leases a resource by its settings. If an earlier revision has a lease on one with the same settings, both use
the same object, so a reload replaces only what it changes. A revision returns its leases when it was refused, or when
it was replaced and its last request has ended (serve/revision.py); a resource without leases is closed.

    Configure   `take` each resource: the one that exists, or a new one        refused: `close`
    Activate    `begin`: what changes an existing resource happens now, not before
    replaced    `close`, after the last request
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Resource(Protocol):
    """Something that is opened once and used by every revision that wants it with the same settings."""

    def close(self) -> None:
        """Release descriptors, timers and tasks. Called once; no request uses the resource any more."""


R = TypeVar("R", bound=Resource)
_Key = tuple[type[Resource], Hashable]


@dataclass(slots=True)
class _Leased:
    resource: Resource
    leases: int = 0


class Resources:
    """All resources of a worker."""

    def __init__(self) -> None:
        self._leased: dict[_Key, _Leased] = {}

    def __len__(self) -> int:
        return len(self._leased)

    def lease(self) -> Lease:
        """Return the leases of a new revision: none yet."""
        return Lease(self._leased)


class Lease:
    """The resources of one revision."""

    def __init__(self, leased: dict[_Key, _Leased]) -> None:
        self._leased = leased
        self._keys: set[_Key] = set()
        self._changes: list[Callable[[], None]] = []

    def take(self, kind: type[R], settings: Hashable, open_: Callable[[], R]) -> R:
        """Return the resource of this *kind* with these *settings*; call *open_* if there is none."""
        key = (kind, settings)
        held = self._leased.get(key)
        if held is None:
            held = self._leased[key] = _Leased(open_())
        if key not in self._keys:
            self._keys.add(key)
            held.leases += 1
        assert isinstance(held.resource, kind)
        return held.resource

    def when_active(self, change: Callable[[], None]) -> None:
        """Have *change* called when the revision is activated: until then resources serve the revision before it."""
        self._changes.append(change)

    def begin(self) -> None:
        """Apply the changes: the revision is active from now on."""
        changes, self._changes = self._changes, []
        for change in changes:
            change()

    def close(self) -> None:
        """Return all leases; close resources without a lease."""
        keys, self._keys, self._changes = self._keys, set(), []
        for key in keys:
            held = self._leased[key]
            held.leases -= 1
            if not held.leases:
                del self._leased[key]
                held.resource.close()
