"""Both engines give the same verdict on every field section: message.c (native), message.py (portable)."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.h3_bytes import Field, request, section
from velocity_edge.http.message import Malformed, check_trailers, parse_head

native = pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

#: Bytes that a rule mentions, and some others.
BYTES = st.sampled_from(b'\0\t\n\r !"#%&*+,-./0129:;<=>?@AFXZ[\\]^_`afgz{|}~\x7f\x80\xff')
NAMES = st.one_of(
    st.sampled_from(
        b":method :scheme :authority :path :protocol :status : host content-length te connection keep-alive upgrade "
        b"proxy-connection transfer-encoding cookie priority authorization trailer content-type expect range x-a "
        b"content-encoding content-range proxy-authorization user-agent Host TE".split()
    ),
    st.lists(BYTES, max_size=4).map(bytes),
)
VALUES = st.one_of(
    st.sampled_from(
        [
            *(b"GET", b"HEAD", b"CONNECT", b"OPTIONS", b"https", b"http", b"/", b"*", b"/a?b", b"localhost", b"a:443"),
            *(b"a:", b"[::1]", b"[::1]:443", b"u@h", b"0", b"5", b"05", b"1" * 18, b"1" * 19, b"trailers", b"Trailers"),
            *(b"", b" x", b"x ", b"%41", b"%4", b"a.b-c_d~", b"websocket"),
        ]
    ),
    st.lists(BYTES, max_size=6).map(bytes),
)
FIELD = st.tuples(NAMES, VALUES)


@st.composite
def nearly_requests(draw: st.DrawFn) -> list[Field]:
    """Valid requests with small faults: random sections hardly ever pass the first rule."""
    fields = request(
        draw(st.sampled_from([b"/", b"*", b"/a"])),
        draw(st.sampled_from([b"GET", b"OPTIONS", b"CONNECT"])),
        draw(st.sampled_from([b"a", b"a:1"])),
    )
    if fields[0][1] == b"CONNECT":
        match draw(st.integers(0, 2)):
            case 0:
                fields = [fields[0], fields[2]]
            case 1:
                fields.append((b":protocol", b"websocket"))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(fields)))
        match draw(st.integers(0, 3)):
            case 0:
                fields.insert(at, draw(FIELD))
            case 1 if fields:
                fields.pop(at % len(fields))
            case 2 if fields:
                fields[at % len(fields)] = (fields[at % len(fields)][0], draw(VALUES))
            case _:
                fields.append(draw(FIELD))
    return fields


def python_says(fields: list[Field], trailers: bool) -> bool:
    try:
        check_trailers(fields) if trailers else parse_head(fields)
    except Malformed:
        return False
    return True


@settings(max_examples=1500, deadline=None)
@given(st.one_of(nearly_requests(), st.lists(FIELD, max_size=6)), st.booleans())
@example([], True)
@example(request(extra=[(b"te", b"TRAILERS")]), False)
@example(request(extra=[(b"x" * 256, b"y" * 3000)]), False)
def test_both_engines_agree_on_field_sections(fields: list[Field], trailers: bool) -> None:
    assert native.is_well_formed(section(fields), trailers) is python_says(fields, trailers)


@pytest.mark.parametrize("octet", range(256))
def test_both_engines_agree_on_every_byte_in_every_position(octet: int) -> None:
    for text in (bytes((octet,)), b"a" + bytes((octet,)), bytes((octet,)) + b"a", b"a" + bytes((octet,)) + b"a"):
        for fields in (
            *(request(extra=[(text, b"1")]), request(extra=[(b"x", text)]), request(extra=[(b"cookie", text)])),
            *(
                request(method=text),
                request(scheme=text),
                request(authority=text),
                request(authority=b"[" + text + b"]"),
                request(method=b"CONNECT", extra=[(b":protocol", text)]),
            ),
            *(request(path=text), request(path=b"/" + text), request(authority=b"a:" + text)),
            *(request(extra=[(b"content-length", text)]), request(extra=[(b"te", text)])),
        ):
            assert native.is_well_formed(section(fields), False) is python_says(fields, False), fields
        for name in (text, b"x"):
            assert native.is_well_formed(section([(name, text)]), True) is python_says([(name, text)], True)


def test_invalid_field_section_is_refused() -> None:
    whole = section(request())
    assert native.is_well_formed(whole, False) is True
    for end in range(1, len(whole)):
        assert native.is_well_formed(whole[:end], False) in (None, False)
    assert native.is_well_formed(b"\x02\0", False) is None
    assert native.is_well_formed(section([(b"n" * 257, b"")]), False) is None
    assert native.is_well_formed(whole, False) is True
