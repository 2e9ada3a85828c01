"""Ranges: the sent bytes cover exactly the requested bytes, once, and never more than the file has."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workers.handlers.static.ranges import MAX_RANGES, MERGE_GAP_BYTES, parse, part_head

_NUMBER = st.integers(0, 600)
_SPEC = st.one_of(
    st.builds(lambda first, length: (first, first + length), _NUMBER, st.integers(0, 300)),
    st.builds(lambda first: (first, None), _NUMBER),
    st.builds(lambda length: (None, length), _NUMBER),
)


def _text(spec: tuple[int | None, int | None]) -> str:
    return "-".join("" if part is None else str(part) for part in spec)


def _model(spec: tuple[int | None, int | None], size: int) -> set[int]:
    """The bytes that one range-spec means (RFC 9110 section 14.1.2), by counting them."""
    first, last = spec
    if first is None:
        assert last is not None
        return set(range(max(0, size - last), size))
    return set(range(first, min(size, (last if last is not None else size) + 1)))


@given(st.lists(_SPEC, min_size=1, max_size=MAX_RANGES), st.integers(0, 500))
def test_pieces_cover_the_ranges_and_only_small_gaps(specs: list[tuple[int | None, int | None]], size: int) -> None:
    pieces = parse(("bytes=" + ", ".join(map(_text, specs))).encode(), size)
    assert pieces is not None
    asked = set().union(*(_model(spec, size) for spec in specs))
    sent = [set(range(piece.offset, piece.end)) for piece in pieces]
    union = set().union(*sent)
    assert sum(map(len, sent)) == len(union) <= size  # no byte twice
    assert asked <= union
    assert bool(pieces) == bool(asked)
    for position in union - asked:
        # Unrequested bytes only fill a gap that is cheaper to send than a part's header.
        below = max(p for p in asked if p < position)
        above = min(p for p in asked if p > position)
        assert above - below - 1 < MERGE_GAP_BYTES
    for piece in pieces:
        assert piece.length > 0
        assert piece.content_range(size) == b"bytes %d-%d/%d" % (piece.offset, piece.end - 1, size)
    ordered = sorted(pieces, key=lambda piece: piece.offset)
    for left, right in pairwise(ordered):
        assert right.offset - left.end >= MERGE_GAP_BYTES


@given(st.lists(_SPEC, min_size=1, max_size=MAX_RANGES), st.integers(1, 500))
def test_unmerged_pieces_keep_the_requested_order(specs: list[tuple[int | None, int | None]], size: int) -> None:
    pieces = parse(("bytes=" + ",".join(map(_text, specs))).encode(), size)
    assert pieces is not None
    first_asked = [
        min(index for index, spec in enumerate(specs) if _model(spec, size) & set(range(p.offset, p.end)))
        for p in pieces
    ]
    assert first_asked == sorted(first_asked)


@given(st.binary(max_size=60), st.integers(0, 500))
def test_any_range_value_is_ignored_or_parsed(value: bytes, size: int) -> None:
    for text in (value, b"bytes=" + value):
        pieces = parse(text, size)
        assert pieces is None or all(0 <= p.offset < p.end <= size for p in pieces)


def test_many_overlapping_ranges_cost_one_file() -> None:
    pieces = parse(b"bytes=" + b",".join(b"%d-" % n for n in range(MAX_RANGES)), 1_000_000)
    assert [(p.offset, p.length) for p in pieces or []] == [(0, 1_000_000)]
    assert parse(b"bytes=" + b"0-0," * MAX_RANGES + b"1-1", 10) is None


@given(st.integers(0, 10**6))
def test_part_headers_have_one_form(offset: int) -> None:
    (piece,) = parse(b"bytes=%d-%d" % (offset, offset), 10**7) or []
    head = part_head(b"x", b"text/plain", piece, 10**7)
    assert head == b"\r\n--x\r\nContent-Type: text/plain\r\nContent-Range: bytes %d-%d/10000000\r\n\r\n" % (
        offset,
        offset,
    )
