"""Connection IDs: 20 bytes that name the node and the worker, and tell neither to a stranger.

    octets 1   config id (3 bits), 19 (5 bits)
          16   AES-128( node id 4 | worker id 2 | redundancy 2 | nonce 8 ), the QUIC-LB block
           3   (worker id 2 | check 1) XOR SipHash-1-3(block)

One id serves three readers: QUIC-LB balancers and other nodes open the block (draft-ietf-quic-load-balancers, single
pass, server id of 8 bytes); our kernel programs need only the SipHash (bpf/quic.h is the C twin of `WorkerMask`);
humans use `velocity-edge cid decode`. A configuration is live while a connection holds an id of it: up to 7 at once.

This file decides the format. Who holds the keys (velocity_edge/keys/table.py) and what a worker does with a foreign id
(velocity_edge/quic/demux.py) is decided elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from velocity_edge.wire.siphash import siphash13_16

CID_LENGTH = 20
BLOCK_LENGTH = 16
#: Length bits of the first octet: bytes that follow it (QUIC-LB, "length self-description").
SELF_LENGTH = CID_LENGTH - 1
#: Config ids 0..6 are usable; 0b111 means "unroutable" in QUIC-LB and is never ours.
MAX_CONFIG_ID = 6
#: Worker ids have 16 bits and are lent in turn; 0 is never lent, so that "no worker" has a value of its own.
MAX_WORKER_ID = 0xFFFF
#: Constant in every server id: a block that opens to something else was not sealed by us.
REDUNDANCY = b"VE"
#: The check octet before masking. 1 random id in 256 passes it (and in 2^24/live workers names a live worker).
CHECK = 0x00


@dataclass(frozen=True, slots=True)
class CidOwner:
    """Who a connection ID belongs to."""

    config_id: int
    node_id: int
    worker_id: int


@dataclass(frozen=True, slots=True)
class CidConfig:
    """One QUIC-LB configuration: an AES-128 key for the block, a SipHash key for the trailer (16 bytes each)."""

    config_id: int
    aes_key: bytes = field(repr=False)
    mask_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.config_id <= MAX_CONFIG_ID:
            raise ValueError(f"config id {self.config_id} is not in 0..{MAX_CONFIG_ID}")
        if len(self.aes_key) != 16 or len(self.mask_key) != 16:
            raise ValueError("aes_key and mask_key have 16 bytes each")

    @property
    def first_octet(self) -> int:
        """The first octet of every id under this configuration."""
        return self.config_id << 5 | SELF_LENGTH


class CidCodec:
    """Makes and reads connection IDs. The first configuration seals; all of them open."""

    def __init__(self, configs: list[CidConfig]) -> None:
        if not configs:
            raise ValueError("at least one CID configuration is needed")
        self.configs: Mapping[int, CidConfig] = {c.config_id: c for c in configs}
        self._seal_with = configs[0]
        self._block: CipherContext = Cipher(algorithms.AES(configs[0].aes_key), modes.ECB()).encryptor()

    def issue(self, node_id: int, worker_id: int) -> bytes:
        """Return a fresh 20-byte id for a connection of *worker_id* on *node_id*."""
        config = self._seal_with
        worker = worker_id.to_bytes(2, "big")
        block = self._block.update(node_id.to_bytes(4, "big") + worker + REDUNDANCY + os.urandom(8))
        mask = siphash13_16(config.mask_key, block)
        trailer = (worker_id << 8 | CHECK) ^ (mask & 0xFFFFFF)
        return bytes((config.first_octet,)) + block + trailer.to_bytes(3, "big")

    def worker_of(self, cid: bytes) -> int | None:
        """Return the worker id in the trailer, or None when *cid* does not decode: what the kernel programs see.

        Cheap (no AES) and spoofable by whoever holds an id of ours; enough to steer, not to trust.
        """
        if len(cid) != CID_LENGTH:
            return None
        config = self.configs.get(cid[0] >> 5)
        if config is None or cid[0] != config.first_octet:
            return None
        trailer = int.from_bytes(cid[17:20], "big") ^ (siphash13_16(config.mask_key, cid[1:17]) & 0xFFFFFF)
        return trailer >> 8 if trailer & 0xFF == CHECK else None

    def open(self, cid: bytes) -> CidOwner | None:
        """Return who *cid* belongs to, by the QUIC-LB block and the trailer; None when either does not fit."""
        worker_id = self.worker_of(cid)
        if worker_id is None:
            return None
        config = self.configs[cid[0] >> 5]
        decryptor = Cipher(algorithms.AES(config.aes_key), modes.ECB()).decryptor()
        plain = decryptor.update(cid[1:17])
        if plain[6:8] != REDUNDANCY or int.from_bytes(plain[4:6], "big") != worker_id:
            return None
        return CidOwner(config.config_id, int.from_bytes(plain[0:4], "big"), worker_id)
