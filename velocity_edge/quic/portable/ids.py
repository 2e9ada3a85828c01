"""Connection IDs of this worker with their reset tokens, under the keys of the moment."""

from __future__ import annotations

from dataclasses import dataclass

from velocity_edge.quic.datagrams import EngineKeys
from velocity_edge.quic.reset import reset_token
from velocity_edge.wire.cid_codec import CidCodec


@dataclass(frozen=True, slots=True)
class NewId:
    """A connection ID of ours and its stateless reset token (None: no key for it)."""

    cid: bytes
    reset_token: bytes | None


class Ids:
    """Makes them; replaced as a whole when the keys change. Connections keep the ids they have."""

    def __init__(self, keys: EngineKeys, node_id: int, worker_id: int) -> None:
        self.codec = CidCodec(keys.cid_configs)
        #: The configuration that issues.
        self.config_id = keys.cid_configs[0].config_id
        self._reset_keys = keys.reset_keys
        self._node_id = node_id
        self._worker_id = worker_id

    def issue(self) -> NewId:
        """Return a fresh one."""
        return self.name(self.codec.issue(self._node_id, self._worker_id))

    def name(self, cid: bytes) -> NewId:
        """Return an id that exists, with its token."""
        return NewId(cid, reset_token(self._reset_keys, cid))

    def first(self, client_chose: bytes, *, retried: bool) -> NewId:
        """Return the first id of a new connection.

        After a Retry of this worker the client's Initial carries an id of ours already; after another worker's it names
        the other, and the connection needs a name of its own.
        """
        mine = retried and self.codec.worker_of(client_chose) == self._worker_id
        return self.name(client_chose) if mine else self.issue()
