"""A connection that a node closes with an error is counted under the error's name; the debug log has the reason."""

from __future__ import annotations

import pytest

from tests.support.h3 import H3Client
from tests.support.h3_bytes import frame, headers, request
from tests.support.node import ENGINES, running_node

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("engine", ENGINES)
def test_protocol_error_of_a_client_is_counted_and_logged(engine: str) -> None:
    with running_node("--log-level", "debug", engine=engine) as node:
        with H3Client(node.port, node.ca) as client:

            async def misbehave() -> None:
                quic = client.protocol._quic
                stream_id = quic.get_next_available_stream_id()
                quic.send_stream_data(stream_id, headers(request()) + frame(4))  # SETTINGS on a request stream
                client.protocol.transmit()

            client.run(misbehave())
            assert client.wait_closed() == 0x105
        assert node.counter("closed_h3_frame_unexpected", at_least=1) == 1
        assert "closed a connection: h3_frame_unexpected (0x105): " in node.log
