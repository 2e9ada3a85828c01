"""Our ClientHello parser accepts nothing that aioquic refuses, gives the same result otherwise, raises only Alert."""

from __future__ import annotations

import contextlib
import functools
import random

import pytest
from aioquic import tls
from aioquic.buffer import Buffer, BufferReadError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import tls as support
from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import first_table
from velocity_edge.tls import codec, codec_client, kex
from velocity_edge.tls.alerts import Alert
from velocity_edge.tls.client_hello import ClientHello, parse_client_hello
from velocity_edge.tls.tickets import Tickets
from velocity_edge.tls.vectors import extension, message


@functools.cache
def seeds() -> list[bytes]:
    """ClientHellos as aioquic and our client write them: plain, post-quantum, after a retry, with a ticket."""
    found: list[bytes] = []
    policy = support.policy(tickets=Tickets(KeyRing(first_table(b"r" * 32, 0.0), TICKET)))
    first = support.run(policy, support.client(shares=(kex.X25519,)))
    second = support.run(policy, support.client(session=first.sessions[0], shares=(kex.X25519,), padding_bytes=20))
    for pair in (first, second):
        found += [m for receiver, _, m in pair.messages if receiver == "server" and m[0] == codec.CLIENT_HELLO]
    context = tls.Context(is_client=True, alpn_protocols=["h3", "velocity/1"], server_name=support.NAME)
    context.handshake_extensions = [(codec.EXT_QUIC_PARAMETERS, b"\x01\x01\x05")]
    output = {tls.Epoch.INITIAL: Buffer(capacity=4096)}
    context.handle_message(b"", output)
    return [*found, output[tls.Epoch.INITIAL].data]


def theirs(message: bytes) -> tls.ClientHello | None:
    """Parse as aioquic does; None: it refuses."""
    buffer = Buffer(data=message)
    try:
        hello = tls.pull_client_hello(buffer)
    except (tls.Alert, BufferReadError, AssertionError):
        return None
    return hello if buffer.eof() else None


def ours(message: bytes) -> ClientHello | None:
    try:
        return parse_client_hello(message)
    except Alert:
        return None


def assert_twins(message: bytes) -> bool:
    """Whether both accept."""
    mine = ours(message)
    if mine is None:
        return False
    other = theirs(message)
    assert other is not None, f"accepted alone: {message.hex()}"
    assert mine.random == other.random
    assert mine.session_id == other.legacy_session_id
    assert list(mine.cipher_suites) == other.cipher_suites
    assert list(mine.compression_methods) == other.legacy_compression_methods
    assert list(mine.versions) == (other.supported_versions or [])
    assert (mine.groups and list(mine.groups)) == (other.supported_groups or (mine.groups and []))
    assert (None if mine.key_shares is None else list(mine.key_shares.items())) == other.key_share
    assert (None if mine.signature_schemes is None else list(mine.signature_schemes)) == other.signature_algorithms
    assert list(mine.psk_modes) == (other.psk_key_exchange_modes or [])
    assert mine.server_name == (other.server_name.lower() if other.server_name is not None else None)
    names = None if mine.alpn is None else [name.decode("ascii") for name in mine.alpn if name.isascii()]
    assert names == other.alpn_protocols
    assert mine.early_data == other.early_data
    assert list(mine.extensions.items()) == other.other_extensions
    if other.pre_shared_key is not None:
        assert list(mine.psk_identities) == other.pre_shared_key.identities
        assert list(mine.psk_binders) == other.pre_shared_key.binders
        assert message[mine.binders_at + 2 :] == b"".join(bytes((len(b),)) + b for b in mine.psk_binders)
    else:
        assert not mine.psk_identities
    return True


def test_both_parsers_accept_the_seeds() -> None:
    assert len(seeds()) == 5
    assert all(assert_twins(seed) for seed in seeds())


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Change some bytes, cut, repeat, insert; often repair the outer length so that the change is reached."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        # Most lengths and types are in the first 400 bytes and at the end; the middle is key material.
        at = dice.choice((dice.randrange(len(changed)), dice.randrange(min(len(changed), 400)), -dice.randint(1, 60)))
        match dice.randrange(5):
            case 0:
                changed[at] = dice.randrange(256)
            case 1:
                changed[at] = changed[at] + dice.choice((-1, 1)) & 0xFF
            case 2:
                del changed[at : at + dice.randint(1, 4)]
            case 3:
                changed[at:at] = dice.randbytes(dice.randint(1, 4))
            case 4:
                piece = changed[at : at + dice.randint(1, 40)]
                changed[at:at] = piece
        if not changed:
            return b""
    if dice.random() < 0.7 and len(changed) >= 4:
        changed[1:4] = (len(changed) - 4).to_bytes(3, "big")
    return bytes(changed)


def test_mutated_client_hellos_are_parsed_as_by_aioquic() -> None:
    dice = random.Random(20261123)
    accepted = sum(assert_twins(mutate(dice.choice(seeds()), dice)) for _ in range(8000))
    # The fuzzer must produce both results.
    assert 1000 < accepted < 7900


@pytest.mark.slow
def test_many_more_mutated_client_hellos_are_parsed_as_by_aioquic() -> None:
    dice = random.Random()
    seed = dice.randrange(1 << 32)
    print(f"seed {seed}")
    dice.seed(seed)
    for _ in range(100_000):
        assert_twins(mutate(dice.choice(seeds()), dice))


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_raise_only_alerts(body: bytes, framed: bool) -> None:
    assert_twins(bytes((codec.CLIENT_HELLO,)) + len(body).to_bytes(3, "big") + body if framed else body)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from((0, 10, 13, 16, 41, 42, 43, 45, 47, 51, 57, 0x0A0A)), st.binary(max_size=24)),
        max_size=6,
    )
)
def test_any_extensions_are_parsed_as_by_aioquic(found: list[tuple[int, bytes]]) -> None:
    block = b"".join(extension(kind, data) for kind, data in found)
    hello = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + len(block).to_bytes(2, "big") + block
    assert_twins(message(codec.CLIENT_HELLO, hello))


@settings(max_examples=500)
@given(st.binary(max_size=120), st.booleans())
def test_client_parsers_raise_only_alerts(body: bytes, framed: bool) -> None:
    parsers = (
        codec_client.parse_server_hello,
        codec_client.parse_encrypted_extensions,
        codec_client.parse_certificate,
        codec_client.parse_certificate_request,
        codec_client.parse_certificate_verify,
        codec_client.parse_new_session_ticket,
    )
    for parse in parsers:
        with contextlib.suppress(Alert):
            parse(b"\x02" + len(body).to_bytes(3, "big") + body if framed else body)
