"""Compressed byte strings: known bytes of the wire, and refusals."""

import gzip
import struct

import lz4.block
import pytest
from cramjam import snappy

from dvidzarr.core.errors import FormatError
from dvidzarr.wire import compression as c

BLOCK = bytes.fromhex("000104050809 0C0D")


def test_lz4_prefixed_matches_recorded_frame() -> None:
    # E7 of the voxel specification: 8 literals behind one token
    assert c.lz4_prefixed_encode(BLOCK) == bytes.fromhex("08000000 80 000104050809 0C0D")


def test_lz4_literal_only_block_of_the_specification() -> None:
    # E13: two uint64 labels as one literal run
    labels = struct.pack("<2Q", 5, 2)
    assert c.lz4_decode(b"\xf0\x01" + labels, 16) == labels


@pytest.mark.parametrize(
    "data",
    [b"", b"\xf0", b"\xff" * 40, lz4.block.compress(bytes(9), store_size=False)],
    ids=["empty", "truncated", "endless length", "wrong size"],
)
def test_lz4_refuses(data: bytes) -> None:
    with pytest.raises(FormatError):
        c.lz4_decode(data, 8)


def test_lz4_prefix_that_claims_gigabytes_is_refused_before_allocation() -> None:
    with pytest.raises(FormatError, match="claim 4294967295 bytes, expected 8"):
        c.lz4_prefixed_decode(b"\xff\xff\xff\xff\x80" + BLOCK, 8)


@pytest.mark.parametrize("level", [-1, 1, 3, 6, 7, 9])
def test_gzip_is_readable_by_everybody(level: int) -> None:
    assert gzip.decompress(c.gzip_encode(BLOCK * 50, level)) == BLOCK * 50


def test_gzip_reads_several_members_as_one_stream() -> None:
    assert c.gzip_decode_within(gzip.compress(BLOCK) + gzip.compress(BLOCK), 16) == BLOCK * 2


def test_gzip_bomb_is_cut_at_its_declared_size() -> None:
    with pytest.raises(FormatError, match="more than 1000 bytes"):
        c.gzip_decode_within(gzip.compress(bytes(50 << 20)), 1000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8b",
        gzip.compress(BLOCK)[:-1],
        gzip.compress(BLOCK) + b"x",
        b"plain",
    ],
    ids=["empty", "header only", "truncated", "garbage behind", "not gzip"],
)
def test_gzip_refuses(data: bytes) -> None:
    with pytest.raises(FormatError):
        c.gzip_decode_within(data, len(BLOCK))


def test_gzip_refuses_a_wrong_checksum() -> None:
    data = bytearray(gzip.compress(BLOCK))
    data[-5] ^= 1
    with pytest.raises(FormatError):
        c.gzip_decode_within(bytes(data), len(BLOCK))


def test_snappy_is_readable_by_everybody() -> None:
    assert bytes(snappy.decompress_raw(c.snappy_encode(BLOCK * 50))) == BLOCK * 50


def test_gzip_of_many_tiny_members_is_not_quadratic() -> None:
    member = gzip.compress(b"ab")
    assert c.gzip_decode_within(member * 20_000, 40_000) == b"ab" * 20_000
