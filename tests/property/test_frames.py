"""Frames: what was packed comes back, and what was torn or changed is never taken for a record."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.storage.frames import (
    HEADER_SIZE,
    SegmentHeader,
    decode_frame,
    encode_frame,
    encode_record,
    frame_end,
    next_frame,
)

Record = tuple[int, dict[str, int], bytes]
record_values = st.tuples(
    st.integers(0, 65535),
    st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
    st.binary(max_size=40),
)
record_lists = st.lists(record_values, min_size=1, max_size=4)
salts = st.integers(0, 2**32 - 1)
sequences = st.integers(1, 2**40)


def frame(first: int, records: list[Record], salt: int) -> bytes:
    return encode_frame(first, [encode_record(*record) for record in records], salt)


@given(sequences, record_lists, salts, st.binary(max_size=20), st.binary(max_size=20))
def test_round_trip(first: int, records: list[Record], salt: int, before: bytes, after: bytes) -> None:
    data = memoryview(before + frame(first, records, salt) + after)
    end = frame_end(data, len(before), first, salt)
    assert end == len(data) - len(after)
    entries = decode_frame(data, len(before), 7)
    assert [(e.kind, e.header, bytes(e.payload)) for e in entries] == records
    assert [e.sequence for e in entries] == list(range(first, first + len(records)))
    assert all(bytes(data[e.offset : e.offset + len(e.payload)]) == bytes(e.payload) for e in entries)
    assert {e.segment for e in entries} == {7}


@given(sequences, record_lists, salts)
def test_torn_at_every_byte(first: int, records: list[Record], salt: int) -> None:
    whole = frame(first, records, salt)
    for cut in range(len(whole)):
        assert frame_end(memoryview(whole[:cut]), 0, first, salt) is None
        zeros = whole[:cut] + bytes(len(whole) - cut)
        assert zeros == whole or frame_end(memoryview(zeros), 0, first, salt) is None


@given(sequences, record_lists, salts, st.data())
def test_every_flipped_bit_is_seen(first: int, records: list[Record], salt: int, data: st.DataObject) -> None:
    whole = bytearray(frame(first, records, salt))
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[at // 8] ^= 1 << at % 8
    assert frame_end(memoryview(whole), 0, first, salt) is None


@given(sequences, record_lists, salts, st.integers(1, 5))
def test_only_the_next_sequence_of_this_log_is_taken(
    first: int, records: list[Record], salt: int, other: int
) -> None:
    whole = memoryview(frame(first, records, salt))
    assert frame_end(whole, 0, first + other, salt) is None
    assert frame_end(whole, 0, first, salt ^ other) is None


@given(sequences, record_lists, salts, st.binary(max_size=60), record_lists)
def test_a_frame_is_found_behind_garbage(
    first: int, lost: list[Record], salt: int, garbage: bytes, records: list[Record]
) -> None:
    later = first + len(lost)
    data = memoryview(garbage + frame(later, records, salt))
    assert next_frame(data, 0, first, salt) == len(garbage)
    assert next_frame(data, 0, later + 1, salt) is None
    assert next_frame(data[:-1], 0, first, salt) is None


@given(sequences, record_lists, salts)
def test_a_frame_inside_a_value_is_not_taken(first: int, records: list[Record], salt: int) -> None:
    """Someone stores the bytes of a log as a value: they were not made with this segment's salt."""
    forged = frame(first + 1, records, salt ^ 1)
    data = memoryview(frame(first, [(1, {}, forged)], salt))
    assert next_frame(data, 1, first + 1, salt) is None


@given(salts, sequences)
def test_segment_headers(salt: int, first: int) -> None:
    header = SegmentHeader("ab" * 16, "cd" * 16, first, salt)
    raw = header.pack()
    assert len(raw) == HEADER_SIZE
    assert SegmentHeader.unpack(raw) == header
    for cut in range(HEADER_SIZE):
        assert SegmentHeader.unpack(raw[:cut]) is None
    for at in range(HEADER_SIZE):
        changed = bytearray(raw)
        changed[at] ^= 1
        assert SegmentHeader.unpack(bytes(changed)) is None


def test_zeros_are_no_frame() -> None:
    for size in (0, 1, 19, 20, 64, 4096):
        assert frame_end(memoryview(bytes(size)), 0, 0, 0) is None
        assert next_frame(memoryview(bytes(size)), 0, 0, 0) is None


def test_an_impossible_length_is_no_frame() -> None:
    for length in (0, 1, 21, 2**31, 2**32 - 1):
        data = struct.pack("<IIQI", length, 0, 1, 1) + bytes(40)
        assert frame_end(memoryview(data), 0, 1, 0) is None
