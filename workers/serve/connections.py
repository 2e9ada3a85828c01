"""Established connections: their peers, the names that they asked for, and closes by error.

Fed with the events of an engine by exchanges.py. What happens to connections in a drain is decided in workers/drain.
"""

from __future__ import annotations

import logging

from velocity_edge.http.requests import Address, ConnectionClosed, HandshakeCompleted
from velocity_edge.tls.kex import group_name
from velocity_edge.wire.counters import CLOSES
from velocity_edge.wire.error_codes import error_name, is_error

log = logging.getLogger(__name__)


class Connections:
    """The established connections of one worker."""

    def __init__(self, max_per_address: int = 0) -> None:
        """*max_per_address*: connections of one client address; 0: any number."""
        self.max_per_address = max_per_address
        #: Client address (`_client`) -> how many connections it has.
        self._by_client: dict[bytes, int] = {}
        #: Connection -> address of the client. Public because it is read for each request.
        self.peers: dict[int, Address] = {}
        #: Connection -> name that the client asked for (SNI), for the list of connections that remain in a drain.
        self._sites: dict[int, str] = {}
        #: Connection -> name of its key exchange group, for the access log.
        self.groups: dict[int, str] = {}
        #: Connections that this side closed with an error, by the names of counters.CLOSES.
        self.closes = dict.fromkeys(CLOSES, 0)

    def __len__(self) -> int:
        return len(self.peers)

    def __contains__(self, connection: int) -> bool:
        return connection in self.peers

    def on_handshake(self, event: HandshakeCompleted) -> bool:
        """Add a connection whose handshake is complete. False: its client has too many, and it must be closed."""
        client = _client(event.peer)
        count = self._by_client[client] = self._by_client.get(client, 0) + 1
        self.peers[event.connection] = event.peer
        self._sites[event.connection] = event.server_name
        self.groups[event.connection] = group_name(event.group)
        return not self.max_per_address or count <= self.max_per_address

    def on_closed(self, event: ConnectionClosed) -> None:
        """Remove a connection, and count its close if it is an error of the peer that this side detected."""
        peer = self.peers.pop(event.connection, None)
        if peer is not None:
            client = _client(peer)
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]
        self._sites.pop(event.connection, None)
        self.groups.pop(event.connection, None)
        if not event.by_peer and is_error(event.error_code, application=event.application):
            name = error_name(event.error_code, application=event.application)
            self.closes[f"closed_{name}"] += 1
            # The reason phrase of a library may quote data from the peer.
            log.debug("closed a connection: %s (0x%x): %s", name, event.error_code, ascii(event.reason))

    def site(self, connection: int) -> str:
        """Return the name that the client asked for; "" for none, or for an unknown connection."""
        return self._sites.get(connection, "")


def _client(peer: Address) -> bytes:
    """Return what counts as one client: an IPv4 address, or an IPv6 /56, which one customer of a provider has."""
    return peer[0] if len(peer[0]) == 4 else peer[0][:7]
