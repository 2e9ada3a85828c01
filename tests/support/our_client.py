"""Our own client for engine_driver: post-quantum groups, HelloRetryRequest, ML-DSA, resumption."""

from __future__ import annotations

from typing import Any

from tests.support import tls as tls_support
from tests.support.engine_driver import StockClient, World
from velocity_edge.client.connection import ClientConnection, ClientH3
from velocity_edge.tls.client import ClientHandshake
from velocity_edge.tls.client_policy import ClientPolicy, Session
from velocity_edge.tls.trust import Trust


class OurClient(StockClient):
    """As StockClient, on `ClientConnection`."""

    def __init__(self, world: World, address: Any, *, token: bytes = b"", **policy: Any) -> None:
        super().__init__(world, address)
        self.sessions: list[Session] = []
        offer = ClientPolicy(server_name=tls_support.NAME, trust=Trust(insecure=True), **policy)
        self.quic: Any = ClientConnection(
            offer, token=token, on_session=self.sessions.append, on_token=self.tokens.append
        )

    @classmethod
    def connect(cls, world: World, **policy: Any) -> OurClient:
        client = cls(world, world.address(), **policy)
        world.attach(client.address, client)
        client.start()
        return client

    @classmethod
    def connected(cls, world: World, **policy: Any) -> OurClient:
        client = cls.connect(world, **policy)
        world.run(lambda: client.tls.done or client.terminated is not None)
        assert client.tls.done, client.terminated
        # The server has received the Finished, too.
        world.run(lambda: client.quic._handshake_confirmed)
        return client

    @property
    def tls(self) -> ClientHandshake:
        handshake: ClientHandshake = self.quic.context.handshake
        return handshake

    def make_http(self) -> ClientH3:
        return ClientH3(self.quic)

    def consumed(self, stream_id: int, n_bytes: int) -> None:
        self.quic.consume(stream_id, n_bytes)
