"""Codec chains of chunks: round trips of every dtype, and damage that must be seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.core.errors import CorruptionError
from dvidzarr.storage.codecs import GRAY, LABELS, ChunkCodec, Compressor
from dvidzarr.wire.murmur import murmur3, pseudocolors

COMPRESSORS = [GRAY, LABELS]
DTYPES = ["u1", "<u2", "<u4", "<u8", "<f4"]
SHAPES = [(1, 1, 1), (2, 2, 2), (5, 7, 3), (8, 8, 8), (16, 32, 16), (64, 64, 64)]


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip(compressor: Compressor, dtype: str, shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(3)
    codec = ChunkCodec(shape, np.dtype(dtype), compressor)
    for chunk in (np.zeros(shape, dtype), random.integers(0, 255, shape).astype(dtype)):
        encoded = codec.encode(chunk)
        again = np.empty(shape, dtype)
        codec.decode(memoryview(encoded.data), encoded.checksum, again)
        assert np.array_equal(again, chunk)
        assert codec.check(encoded.data) == encoded.checksum


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_another_size_is_corrupt(compressor: Compressor) -> None:
    small, large = (ChunkCodec((side,) * 3, np.dtype("<u8"), compressor) for side in (4, 8))
    encoded = small.encode(np.ones((4, 4, 4), "<u8"))
    with pytest.raises(CorruptionError):
        large.check(encoded.data)


@given(st.binary(max_size=200), st.sampled_from(COMPRESSORS))
def test_random_bytes_are_corrupt(data: bytes, compressor: Compressor) -> None:
    with pytest.raises(CorruptionError):
        ChunkCodec((4, 4, 4), np.dtype("<u8"), compressor).check(data)


@given(st.data(), st.sampled_from(COMPRESSORS))
def test_each_changed_byte_is_seen(data: st.DataObject, compressor: Compressor) -> None:
    codec = ChunkCodec((8, 8, 8), np.dtype("<u8"), compressor)
    encoded = codec.encode(np.arange(512, dtype="<u8").reshape(8, 8, 8))
    broken = bytearray(encoded.data)
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptionError):
        codec.decode(memoryview(broken), encoded.checksum, np.empty((8, 8, 8), "<u8"))


def test_colours_are_those_of_dvid() -> None:
    labels = np.array([0, 1, 2, 23, 2**40], np.uint64)
    assert [f"{value:08x}" for value in murmur3(labels)] == [
        "63852afc", "53075d44", "c61fa2f4", "15b0c8d5", "a9f62f22",
    ]  # fmt: skip
    assert pseudocolors(labels)[3].tolist() == [21, 176, 200, 255]
