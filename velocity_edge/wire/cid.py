"""Connection IDs: 20 bytes that name the node and the worker, readable only with the node's keys.

    octets 1   config id (3 bits), 19 (5 bits)
          16   AES-128( node id 4 | worker id 2 | redundancy 2 | nonce 8 ), the QUIC-LB block
           3   (worker id 2 | check 1) XOR SipHash-1-3(block)

An ID has three kinds of readers: QUIC-LB load balancers and other nodes decrypt the block
(draft-ietf-quic-load-balancers, single pass, server id of 8 bytes); the kernel programs need only the SipHash
(bpf/quic.h has the same function in C); people use `velocity-edge cid decode`. A configuration is live while a
connection holds an ID of it: up to 7 at once.

This file is pure and decides the format; cid_codec.py issues IDs. Keys are derived in velocity_edge/keys/ring.py; what
a worker does with the ID of another worker is decided in velocity_edge/quic/demux.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from velocity_edge.wire.siphash import siphash13_16

CID_LENGTH = 20
BLOCK_LENGTH = 16
#: Length bits of the first octet: bytes that follow it (QUIC-LB, "length self-description").
SELF_LENGTH = CID_LENGTH - 1
#: Config ids 0..6 are usable; 0b111 means "unroutable" in QUIC-LB and is never issued.
MAX_CONFIG_ID = 6
#: Worker ids have 16 bits and are assigned in turn; 0 is never assigned and means "no worker".
MAX_WORKER_ID = 0xFFFF
#: Constant in every server id: a block that decrypts to something else was not issued with these keys.
REDUNDANCY = b"VE"
#: The check octet before masking. One random ID in 256 passes it (one in 2^24/live workers names a live worker).
CHECK = 0x00


@dataclass(frozen=True, slots=True)
class CidOwner:
    """The node and worker of a connection ID."""

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


class CidReader:
    """Reads connection IDs of these configurations."""

    def __init__(self, configs: list[CidConfig]) -> None:
        if not configs:
            raise ValueError("expected at least one CID configuration")
        self.configs: Mapping[int, CidConfig] = {c.config_id: c for c in configs}

    def worker_of(self, cid: bytes) -> int | None:
        """Return the worker id in the trailer, or None when *cid* does not decode, as the kernel programs read it.

        It needs no AES. A client that knows one ID can forge others: good for steering, not for trust.
        """
        if len(cid) != CID_LENGTH:
            return None
        config = self.configs.get(cid[0] >> 5)
        if config is None or cid[0] != config.first_octet:
            return None
        trailer = int.from_bytes(cid[17:20], "big") ^ (siphash13_16(config.mask_key, cid[1:17]) & 0xFFFFFF)
        return trailer >> 8 if trailer & 0xFF == CHECK else None

    def open(self, cid: bytes) -> CidOwner | None:
        """Return the owner of *cid* from the QUIC-LB block and the trailer; None when they do not agree."""
        worker_id = self.worker_of(cid)
        if worker_id is None:
            return None
        config = self.configs[cid[0] >> 5]
        decryptor = Cipher(algorithms.AES(config.aes_key), modes.ECB()).decryptor()
        plain = decryptor.update(cid[1:17])
        if plain[6:8] != REDUNDANCY or int.from_bytes(plain[4:6], "big") != worker_id:
            return None
        return CidOwner(config.config_id, int.from_bytes(plain[0:4], "big"), worker_id)
