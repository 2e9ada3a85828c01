"""Connection IDs of this worker with their reset tokens, under the keys that are in use."""

from __future__ import annotations

from dataclasses import dataclass

from aioquic.quic.connection import QuicConnectionId

from velocity_edge.quic.datagrams import EngineKeys
from velocity_edge.quic.reset import reset_token
from velocity_edge.wire.cid_codec import CidCodec


@dataclass(frozen=True, slots=True)
class NewId:
    """A connection ID of this worker and its stateless reset token (None: no key for it)."""

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
        """Return a new one."""
        return self.name(self.codec.issue(self._node_id, self._worker_id))

    def name(self, cid: bytes) -> NewId:
        """Return an id that exists, with its token."""
        return NewId(cid, reset_token(self._reset_keys, cid))

    def first(self, client_chose: bytes, *, retried: bool) -> NewId:
        """Return the first id of a new connection.

        After a Retry of this worker the client's Initial carries an id of this worker already. After a Retry of another
        worker it carries one of that worker, and the connection needs another.
        """
        mine = retried and self.codec.worker_of(client_chose) == self._worker_id
        return self.name(client_chose) if mine else self.issue()


def quic_id(new: NewId, sequence_number: int, *, was_sent: bool = False) -> QuicConnectionId:
    """Return *new* as aioquic has it."""
    return QuicConnectionId(
        cid=new.cid,
        sequence_number=sequence_number,
        # aioquic requires 16 bytes; zeros match no reset, because none is sent without a key.
        stateless_reset_token=new.reset_token or bytes(16),
        was_sent=was_sent,
    )
