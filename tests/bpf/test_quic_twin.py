"""bpf/quic.h and its Python twins give the same result for every datagram and every connection ID."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.twin import Parsed, Twin
from velocity_edge.wire.cid import CID_LENGTH, CidConfig
from velocity_edge.wire.cid_codec import CidCodec
from velocity_edge.wire.siphash import siphash13_16

MALFORMED, UNREADABLE, SHORT, INITIAL, ZERO_RTT, HANDSHAKE, RETRY, NEGOTIATION, OTHER_VERSION = range(9)
V1, V2 = 1, 0x6B3343CF

keys = st.binary(min_size=16, max_size=16)
config_lists = st.lists(
    st.builds(CidConfig, config_id=st.integers(0, 6), aes_key=keys, mask_key=keys),
    min_size=1,
    max_size=7,
    unique_by=lambda config: config.config_id,
)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return Twin(tmp_path_factory.mktemp("twin"))


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    """Random bytes, and long headers that are almost valid: random bytes alone rarely have a valid version."""
    tail = draw(st.binary(max_size=60))
    if draw(st.booleans()):
        return tail
    first = draw(st.integers(0, 255))
    version = draw(st.sampled_from([V1, V2, V1, 0, 0x1A2A3A4A, 0xFF00001D]))
    dcid_length = draw(st.sampled_from([0, 7, 8, 18, 19, 20, 21, 255]))
    scid_length = draw(st.sampled_from([0, 1, 8, 20, 21]))
    middle = draw(st.binary(min_size=dcid_length, max_size=dcid_length)) + bytes([scid_length])
    whole = bytes([first]) + version.to_bytes(4, "big") + bytes([dcid_length]) + middle + tail
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


def parse(datagram: bytes) -> tuple[int, bytes | None]:
    """RFC 8999 and RFC 9000 section 17, implemented a second time from their text."""
    if len(datagram) < 7:
        return MALFORMED, None
    if not datagram[0] & 0x80:
        return (SHORT, datagram[1:21]) if len(datagram) >= 21 else (MALFORMED, None)
    version, dcid_length = int.from_bytes(datagram[1:5], "big"), datagram[5]
    at = 6 + dcid_length
    if len(datagram) <= at:
        return MALFORMED, None
    dcid = datagram[6:at]
    if version == 0:
        return NEGOTIATION, dcid
    if version != V1:
        return OTHER_VERSION, dcid
    scid_length = datagram[at]
    if max(dcid_length, scid_length) > 20 or len(datagram) < at + 1 + scid_length:
        return MALFORMED, None
    kind = [INITIAL, ZERO_RTT, HANDSHAKE, RETRY][datagram[0] >> 4 & 3]
    if kind == INITIAL and len(datagram) < at + 2 + scid_length:
        return MALFORMED, None
    return kind, dcid


def seen(parsed: Parsed) -> tuple[int, bytes | None]:
    return parsed.kind, None if parsed.kind == MALFORMED else parsed.dcid


@settings(max_examples=2000, deadline=None)
@given(datagram=datagrams())
def test_parsers_agree(twin: Twin, datagram: bytes) -> None:
    assert seen(twin.parse(datagram)) == parse(datagram)


@settings(max_examples=500, deadline=None)
@given(datagram=datagrams(), readable=st.integers(0, 60))
def test_a_short_readable_part_gives_unreadable_or_the_same_kind(twin: Twin, datagram: bytes, readable: int) -> None:
    parsed = twin.parse(datagram, min(readable, len(datagram)))
    assert parsed.kind == UNREADABLE or seen(parsed) == parse(datagram)


@pytest.mark.parametrize("token", [b"", b"t"])
def test_token_of_an_initial_is_detected(twin: Twin, token: bytes) -> None:
    head = b"\xc3\0\0\0\x01\x08" + bytes(8) + b"\x04" + bytes(4)
    parsed = twin.parse(head + bytes([len(token)]) + token + bytes(1180))
    assert (parsed.kind, parsed.scid_length, parsed.has_token) == (INITIAL, 4, bool(token))


@settings(max_examples=300, deadline=None)
@given(key=keys, block=keys)
def test_siphash_agrees(twin: Twin, key: bytes, block: bytes) -> None:
    assert twin.siphash13(key, block) == siphash13_16(key, block)


@settings(max_examples=500, deadline=None)
@given(configs=config_lists, node_id=st.integers(0, 2**32 - 1), worker_id=st.integers(0, 2**16 - 1))
def test_ids_that_python_issues_decode_in_c(twin: Twin, configs: list[CidConfig], node_id: int, worker_id: int) -> None:
    cid = CidCodec(configs).issue(node_id, worker_id)
    assert twin.worker_of(cid, configs) == worker_id


@settings(max_examples=2000, deadline=None)
@given(configs=config_lists, cid=st.binary(max_size=CID_LENGTH + 1), flip=st.integers(0, CID_LENGTH * 8 - 1))
def test_other_ids_decode_equally(twin: Twin, configs: list[CidConfig], cid: bytes, flip: int) -> None:
    codec = CidCodec(configs)
    assert twin.worker_of(cid, configs) == codec.worker_of(cid)
    ours = bytearray(codec.issue(1, 2))
    ours[flip // 8] ^= 1 << flip % 8
    assert twin.worker_of(bytes(ours), configs) == codec.worker_of(bytes(ours))


def test_one_random_id_in_256_passes_the_check_octet(twin: Twin) -> None:
    """With a valid first octet; as many random IDs would reach a worker if all 65536 worker ids were in use."""
    configs = [CidConfig(0, bytes(16), bytes(range(16)))]
    hits = sum(twin.worker_of(b"\x13" + i.to_bytes(19, "little"), configs) is not None for i in range(100_000))
    assert 250 < hits < 540


def test_head_length_covers_all_parsed_bytes() -> None:
    """What reuseport.c copies when the header is not linear: flags, version, lengths, two IDs, token length."""
    header = (Path(__file__).parents[2] / "bpf" / "quic.h").read_text()
    assert f"#define QUIC_HEAD_LENGTH {1 + 4 + 1 + 20 + 1 + 20 + 1}" in header
