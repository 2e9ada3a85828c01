"""Implements an engine's upcalls (quic/datagrams.py, `Upcalls`) with the key table and the revision in use.

The decisions are in admission.py and handshake.py; this file has the keys and the policy that they use, and changes
them when keys or configuration change. Handshakes in progress continue with those that they began with.
"""

from __future__ import annotations

from collections.abc import Callable

from velocity_edge.http.requests import Address
from velocity_edge.keys.table import EpochTable
from velocity_edge.quic.admission import AdmissionControl
from velocity_edge.quic.datagrams import Admission, Ignore, Initial, ServerTransport
from velocity_edge.quic.limits import Limits
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.replay import ReplayGuard
from velocity_edge.tls.transport import Handshake


class WorkerUpcalls:
    """Implements `datagrams.Upcalls`."""

    def __init__(
        self,
        table: EpochTable,
        node_id: int,
        worker_id: int,
        limits: Limits,
        used: ReplayGuard,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """*progress* is called for each handshake that begins (vitals.py)."""
        self._progress = progress
        self.admission = AdmissionControl(table, node_id, worker_id, limits, used)
        #: None until the first revision is active.
        self.policy: ServerPolicy | None = None

    def admit(self, initial: Initial, now_ns: int) -> Admission:
        """Decide about a new connection."""
        if self.policy is None:
            return Ignore("verdict_dropped_not_accepting")
        return self.admission.admit(initial, now_ns)

    def handshake(self, transport: ServerTransport) -> Handshake:
        """Return the TLS side of a new connection."""
        assert self.policy is not None, "no connection is admitted without a policy"
        self._progress()
        return self.admission.handshake(self.policy, transport)

    def address_token(self, peer: Address) -> bytes:
        """Return a NEW_TOKEN token for a peer that completed a handshake."""
        return self.admission.address_token(peer)
