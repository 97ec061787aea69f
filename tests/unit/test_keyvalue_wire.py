"""What keyvalue has on the wire: protocol buffers, tar, byte ranges, key lists, blob references."""

import base64
import io
import tarfile
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.core.errors import FormatError, InvalidInputError
from dvidzarr.datatypes.keyvalue.byteranges import (
    Unsatisfiable,
    Wanted,
    wanted_by_header,
    wanted_by_query,
)
from dvidzarr.datatypes.keyvalue.keyrequests import parse_key_requests
from dvidzarr.wire.fnv import Fnv128
from dvidzarr.wire.keyvalues import KeySlice, decode_key_values, decode_keys, key_value_head
from dvidzarr.wire.protobuf import bytes_head, varint
from dvidzarr.wire.tarstream import END, tar_header, tar_padding

texts = st.text(max_size=20).map(str.encode)
pairs = st.lists(st.tuples(texts, st.binary(max_size=300)), max_size=8)


@given(pairs)
def test_key_values_survive(items: list[tuple[bytes, bytes]]) -> None:
    message = b"".join(key_value_head(key, len(value)) + value for key, value in items)
    assert [(key, bytes(value)) for key, value in decode_key_values(memoryview(message))] == items


def test_the_worked_example_of_the_specification() -> None:
    message = bytes.fromhex("0a0b0a056d796b657912026869")
    assert [(key, bytes(value)) for key, value in decode_key_values(memoryview(message))] == [
        (b"mykey", b"hi")
    ]
    assert key_value_head(b"mykey", 2) + b"hi" == message
    assert decode_keys(bytes.fromhex("0a056d796b6579")) == [KeySlice(b"mykey")]


def test_key_ranges_come_after_keys_and_default_to_the_first_byte() -> None:
    part = bytes_head(1, 1) + b"p" + varint(2 << 3) + varint(300) + varint(3 << 3) + varint(400)
    first = bytes_head(1, 1) + b"q"
    body = b"".join(bytes_head(2, len(each)) + each for each in (part, first)) + bytes_head(1, 1) + b"k"
    assert decode_keys(body) == [KeySlice(b"k"), KeySlice(b"p", 300, 401), KeySlice(b"q", 0, 1)]


def test_unknown_fields_are_skipped_groups_included() -> None:
    unknown = b"".join(
        (
            varint(9 << 3) + varint(1 << 63),
            varint(10 << 3 | 1) + bytes(8),
            varint(11 << 3 | 5) + bytes(4),
            varint(12 << 3 | 3) + bytes_head(1, 3) + b"key" + varint(12 << 3 | 4),
            bytes_head(13, 2) + b"xy",
        )
    )
    assert decode_keys(unknown + bytes_head(1, 1) + b"k" + unknown) == [KeySlice(b"k")]


@pytest.mark.parametrize(
    "unknown",
    [b"\x08\x01", b"\x09" + bytes(8), b"\x0d" + bytes(4), b"\x0b\x0c", b"\x10\x05", b"\x15" + bytes(4)],
    ids=["number", "fixed64", "fixed32", "group", "number for a range", "fixed32 for a range"],
)
def test_a_known_number_of_another_kind_is_an_unknown_field(unknown: bytes) -> None:
    assert decode_keys(unknown + bytes_head(1, 1) + b"k") == [KeySlice(b"k")]


def test_bounds_and_values_of_another_kind_are_unknown_fields() -> None:
    part = bytes_head(1, 1) + b"p" + varint(2 << 3 | 1) + bytes([7] * 8) + bytes_head(3, 1) + b"9"
    assert decode_keys(bytes_head(2, len(part)) + part) == [KeySlice(b"p", 0, 1)]
    pair = bytes_head(1, 1) + b"k" + varint(2 << 3) + varint(5)
    message = memoryview(b"\x08\x01" + bytes_head(1, len(pair)) + pair)
    assert [(key, bytes(value)) for key, value in decode_key_values(message)] == [(b"k", b"")]


@pytest.mark.parametrize(
    "body",
    [
        b"\nPabc",  # longer than the message
        b'["a"]',
        b"\x00\x01",  # field 0
        b"\x80" * 11,
        b"\x0a\x02\xff\xfe",  # no UTF-8
        varint(5 << 3 | 3),  # a group without end
        varint(5 << 3 | 4),
        varint(5 << 3 | 6),
        b"\x08" + b"\xff" * 9 + b"\x7f",  # beyond 64 bits
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError, match="proto:"):
        decode_keys(body)


@given(st.lists(st.tuples(st.text(min_size=1, max_size=300), st.binary(max_size=1500)), max_size=4))
def test_python_reads_the_tar(items: list[tuple[str, bytes]]) -> None:
    items = [(name.replace("\0", "0").rstrip("/") or "x", value) for name, value in items]
    body = b"".join(tar_header(name, len(v)) + v + tar_padding(len(v)) for name, v in items) + END
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        members = archive.getmembers()
        assert [(m.name, m.size, m.mode, m.mtime) for m in members] == [
            (n, len(v), 0o755, 0) for n, v in items
        ]
        assert [archive.extractfile(m).read() for m in members] == [v for _, v in items]  # type: ignore[union-attr]


def naive(data: bytes) -> bytes:
    state = 0x6C62272E07BB014262B821756295C58D
    for byte in data:
        state = (state * 0x0000000001000000000000000000013B) % (1 << 128) ^ byte
    return state.to_bytes(16, "big")


@given(st.lists(st.binary(max_size=600), max_size=5))
def test_the_hash_is_fnv_1(parts: list[bytes]) -> None:
    hashed = Fnv128()
    for part in parts:
        hashed.update(part)
    assert hashed.digest() == naive(b"".join(parts))


def test_the_hash_of_long_contents() -> None:
    data = np.random.default_rng(5).integers(0, 256, 300_001, np.uint8).tobytes()
    hashed = Fnv128()
    rest = iter(data)
    while piece := bytes(islice(rest, 70_000)):
        hashed.update(piece)
    assert hashed.digest() == naive(data)


@pytest.mark.parametrize(
    ("data", "reference"),
    [
        (b"", "bGInLge7AUJiuCF1YpXFjQ=="),
        (b"a", "0ijLaRAajK94kStwTkoUHg=="),
        (b"hello", "8UtYSGSD2U9wgDh5jClpfw=="),
    ],
)
def test_references_are_dvids(data: bytes, reference: str) -> None:
    hashed = Fnv128()
    hashed.update(data)
    assert base64.urlsafe_b64encode(hashed.digest()).decode() == reference


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=2-5", Wanted(2, 6, partial=True)),
        ("bytes=24-", Wanted(24, 26, partial=True)),
        ("bytes=24-100", Wanted(24, 26, partial=True)),
        ("bytes=-3", Wanted(23, 26, partial=True)),
        ("bytes=-99", Wanted(0, 26, partial=True)),
        ("bytes=26-30", Unsatisfiable("Range start 26 is outside value with 26 bytes")),
        ("bytes=30-5", Unsatisfiable("Range start 30 is outside value with 26 bytes")),
        ("bytes=-0", Unsatisfiable('Range "bytes=-0" is not satisfiable')),
        *(
            (text, None)
            for text in ("bytes=0-1,4-5", "bytes=5-2", "bytes=abc", "bytes=", "bytes=-", "items=0-5")
        ),
        ("Bytes=0-5", None),
        ("bytes=1-x", None),
        # what Go cannot parse as 64 bits is no number
        *(
            (f"bytes={text}", None)
            for text in (f"1{'0' * 24}-", f"0-1{'0' * 24}", f"-1{'0' * 24}", f"{1 << 64}-")
        ),
        (
            f"bytes={(1 << 64) - 1}-",
            Unsatisfiable(f"Range start {(1 << 64) - 1} is outside value with 26 bytes"),
        ),
        (f"bytes={'0' * 30}2-{'0' * 30}5", Wanted(2, 6, partial=True)),
        (f"bytes={'9' * 6000}-", None),
    ],
)
def test_range_headers(header: str, found: object) -> None:
    assert wanted_by_header(header, 26) == found


def test_range_headers_on_nothing() -> None:
    for header in ("bytes=0-", "bytes=a-", "bytes=-x"):  # numbers come after emptiness
        empty = Unsatisfiable(f'Range "{header}" is not satisfiable for an empty value')
        assert wanted_by_header(header, 0) == empty
    for header in ("bytes=-", "bytes=", "bytes=0-1,2-3", "lines=0-"):
        assert wanted_by_header(header, 0) is None


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"byte_start": "2", "byte_end": "5"}, Wanted(2, 6)),
        ({"byte_start": "0", "byte_end": "0"}, Wanted(0, 1)),
        ({"byte_start": "2"}, "requires both"),
        ({"byte_end": "2"}, "requires both"),
        ({"byte_start": "5", "byte_end": "2"}, "must be <="),
        ({"byte_start": "0", "byte_end": "100"}, "byte_end 100 is outside"),
        ({"byte_start": "26", "byte_end": "26"}, "byte_start 26 is outside"),
        ({"byte_start": "-1", "byte_end": "2"}, 'unsigned integer, got "-1"'),
        ({"byte_start": "1" * 5000, "byte_end": "2"}, "unsigned integer"),
    ],
)
def test_byte_ranges_in_the_query(query: dict[str, str], found: Wanted | str) -> None:
    if isinstance(found, Wanted):
        assert wanted_by_query(query, "k", 26) == found
    else:
        with pytest.raises(InvalidInputError, match=found):
            wanted_by_query(query, "k", 26)


def test_key_requests() -> None:
    assert parse_key_requests(b'["a", "b", "a"]') == [KeySlice(b"a"), KeySlice(b"b"), KeySlice(b"a")]
    assert parse_key_requests(b"[]") == parse_key_requests(b"null") == []
    body = b'[{"KEY": "a", "Byte_Start": 1, "byte_end": 1, "other": 3}, {"key": "b", "byte_start": null}]'
    assert parse_key_requests(body) == [KeySlice(b"a", 1, 2), KeySlice(b"b")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'["a"',
        b"[1, 2]",
        b'["a", {"key": "a"}]',
        b'{"a": 1}',
        b'[{"key": 1}]',
        b'[{"key": "a", "byte_start": -1, "byte_end": 3}]',
        b'[{"key": "a", "byte_start": 1.5, "byte_end": 3}]',
        b'[{"key": "a", "byte_start": true, "byte_end": 3}]',
        b'[{"key": "a", "byte_start": 3}]',
        b'[{"key": "a", "byte_start": 3, "byte_end": 1}]',
    ],
)
def test_bad_key_requests(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_key_requests(body)
