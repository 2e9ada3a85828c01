"""Issues connection IDs in the format of cid.py, with a random nonce from the operating system in each.

The same node and worker get a different ID each time; without the keys no two of them can be linked. Short because it
is the part of the format that needs random bytes.
"""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from velocity_edge.wire.cid import CHECK, REDUNDANCY, CidConfig, CidReader
from velocity_edge.wire.siphash import siphash13_16

_NONCE_BYTES = 8


class CidCodec(CidReader):
    """Issues and reads connection IDs. The first configuration issues; all of them open."""

    def __init__(self, configs: list[CidConfig]) -> None:
        super().__init__(configs)
        self._seal_with = configs[0]
        self._block: CipherContext = Cipher(algorithms.AES(configs[0].aes_key), modes.ECB()).encryptor()

    def issue(self, node_id: int, worker_id: int) -> bytes:
        """Return a fresh 20-byte id for a connection of *worker_id* on *node_id*."""
        config = self._seal_with
        worker = worker_id.to_bytes(2, "big")
        block = self._block.update(node_id.to_bytes(4, "big") + worker + REDUNDANCY + os.urandom(_NONCE_BYTES))
        mask = siphash13_16(config.mask_key, block)
        trailer = (worker_id << 8 | CHECK) ^ (mask & 0xFFFFFF)
        return bytes((config.first_octet,)) + block + trailer.to_bytes(3, "big")
