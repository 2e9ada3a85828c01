"""What is stored in cookies comes back unchanged or not at all; browsers keep each cookie, for this host only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.middleware.auth.cookies import (
    CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_COOKIE_BYTES,
    PREFIX,
    clear,
    cookies_of,
    for_upstream,
    join,
    split,
)

NAME = PREFIX + b"s-a"
LONG = bytes(i % 251 for i in range(CHUNK_BYTES * 3 // 2))
SEALED = st.binary(min_size=1, max_size=60) | st.integers(1, len(LONG)).map(lambda n: LONG[:n])


def stored(sealed: bytes) -> dict[bytes, bytes]:
    """Return what a browser sends after it got these fields."""
    fields = split(NAME, sealed, 60)
    assert fields is not None
    return dict(value.partition(b";")[0].partition(b"=")[::2] for _, value in fields)


@given(SEALED)
def test_what_is_split_is_joined_again(sealed: bytes) -> None:
    assert join(NAME, stored(sealed)) == sealed


@given(SEALED, st.data())
def test_a_changed_cookie_is_another_value_or_none(sealed: bytes, data: st.DataObject) -> None:
    """Not one character can be changed, added or removed without changing the sealed text."""
    cookies = stored(sealed)
    name = data.draw(st.sampled_from(sorted(cookies)))
    value = cookies[name]
    at = data.draw(st.integers(0, len(value)))
    other = data.draw(st.sampled_from([b"", *(bytes((c,)) for c in b"AZaz09-_.!+/= ")]))
    changed = value[:at] + other + value[at + data.draw(st.integers(0, 1)) :]
    if changed != value:
        assert join(NAME, {**cookies, name: changed}) != sealed


def test_the_bits_that_base64_ignores_are_not_free() -> None:
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for sealed in (b"1234", b"12345"):
        ((name, value),) = stored(sealed).items()
        other = alphabet[alphabet.index(value[-1]) ^ 1]
        assert join(name, {name: value[:-1] + bytes((other,))}) is None


def test_a_missing_or_swapped_chunk_does_not_join() -> None:
    sealed = LONG
    cookies = stored(sealed)
    names = sorted(cookies)
    assert len(names) == 2
    for name in names:
        assert join(NAME, {key: value for key, value in cookies.items() if key != name}) != sealed
    swapped = {names[0]: b"2." + cookies[names[1]], names[1]: cookies[names[0]].removeprefix(b"2.")}
    assert join(NAME, swapped) != sealed


def test_every_cookie_is_small_and_bound_to_this_host() -> None:
    for n_bytes in (1, CHUNK_BYTES, len(LONG)):
        fields = split(NAME, b"x" * n_bytes, 60)
        assert fields
        for name, value in fields:
            assert name == b"set-cookie"
            assert len(value) <= MAX_COOKIE_BYTES
            assert value.startswith(b"__Host-")
            attributes = set(value.split(b"; ")[1:])
            assert attributes == {b"Max-Age=60", b"Path=/", b"Secure", b"HttpOnly", b"SameSite=Lax"}


def test_too_much_is_not_stored() -> None:
    assert split(NAME, b"x" * (CHUNK_BYTES * MAX_CHUNKS * 3 // 4 + 1), 60) is None


def test_cookies_of_several_fields_are_one_list() -> None:
    headers = ((b"cookie", b"a=1; b=2"), (b"accept", b"*/*"), (b"cookie", b"c=3;d; e=x=y"))
    assert cookies_of(headers) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"e", b"x=y")]


def test_upstreams_do_not_get_the_cookies_of_this_node() -> None:
    cookies = [(b"a", b"1"), (NAME, b"secret"), (PREFIX + b"l-a-x", b"s"), (b"b", b"2")]
    assert for_upstream(cookies) == b"a=1; b=2"


def test_a_logout_deletes_every_chunk_that_the_browser_has() -> None:
    sent = [NAME, NAME + b"~1", b"other"]
    assert [value.partition(b"=")[0] for _, value in clear(NAME, sent)] == [NAME, NAME + b"~1"]
    assert all(b"Max-Age=0" in value for _, value in clear(NAME, sent))
