"""Neuroglancer's compressed segmentation: round trips, DVID's byte examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.wire.compressedsegmentation import encode_segmentation
from tests.integration.segmentation_reader import decode_segmentation

SHAPES = st.tuples(*[st.integers(1, 3).map(lambda count: 8 * count)] * 3)


def volume(shape: tuple[int, int, int], kinds: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    names = random.integers(0, 2**64 - 1, kinds, np.uint64, endpoint=True)
    return names[random.integers(0, kinds, shape)]


def slowly(labels: np.ndarray) -> bytes:
    """Encode a volume of one sub-block, step by step."""
    table = list(dict.fromkeys(labels.ravel().tolist()))
    bits = next(width for width in (0, 1, 2, 4, 8, 16) if len(table) <= 1 << width)
    packed = sum(table.index(label) << bits * at for at, label in enumerate(labels.ravel().tolist()))
    head = np.array([1, 2 + 16 * bits | bits << 24, 2], "<u4").tobytes()
    return head + packed.to_bytes(64 * bits, "little") + np.array(table, "<u8").tobytes()


@given(SHAPES, st.sampled_from([1, 2, 3, 5, 17, 24, 25, 26, 40, 257, 600]), st.integers(0, 2**32))
def test_round_trip(shape: tuple[int, int, int], kinds: int, seed: int) -> None:
    labels = volume(shape, kinds, seed)
    assert np.array_equal(decode_segmentation(encode_segmentation(labels), shape), labels)


@pytest.mark.parametrize("kinds", [1, 2, 3, 4, 5, 16, 17, 23, 24, 25, 26, 256, 257, 512])
def test_one_sub_block_byte_by_byte(kinds: int) -> None:
    labels = volume((8, 8, 8), kinds, kinds)
    assert encode_segmentation(labels) == slowly(labels)


def test_examples_of_the_specification() -> None:
    labels = np.full((8, 8, 8), 5, np.uint64)
    assert encode_segmentation(labels).hex() == "0100000002000000020000000500000000000000"
    labels[0, 0, 1] = 9
    data = encode_segmentation(labels)
    assert len(data) == 92
    assert data[:16].hex() == "01000000120000010200000002000000"
    assert data[-16:].hex() == "05000000000000000900000000000000"


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 9, 8), (8, 8, 12)])
def test_other_sizes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidInputError, match="multiple of the block size"):
        encode_segmentation(np.zeros(shape, np.uint64))


def test_offsets_beyond_24_bits_are_refused() -> None:
    unlike = np.arange(256 * 128 * 512, dtype=np.uint64).reshape(256, 128, 512)
    with pytest.raises(InvalidInputError, match="smaller volume"):
        encode_segmentation(unlike)


def test_one_layer_that_is_too_much_is_refused() -> None:
    """A wide layer is encoded at once; it is given up when the offsets do not reach further."""
    wide = np.broadcast_to(np.arange(8 * 1024 * 64, dtype=np.uint64).reshape(8, 1024, 64), (8, 1024, 64))
    assert decode_segmentation(encode_segmentation(wide), wide.shape)[7, 1023, 63] == wide.max()
    with pytest.raises(InvalidInputError, match="smaller volume"):
        encode_segmentation(np.arange(8 * 1024 * 1024, dtype=np.uint64).reshape(8, 1024, 1024))


def test_read_only_and_strided_volumes() -> None:
    labels = volume((16, 24, 32), 9, 2)
    wanted = encode_segmentation(labels)
    labels.flags.writeable = False
    assert encode_segmentation(labels) == wanted
    assert encode_segmentation(np.asfortranarray(labels)) == wanted
    assert encode_segmentation(labels[:, ::-1][:, ::-1]) == wanted
