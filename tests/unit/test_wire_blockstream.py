"""Frames of blocks."""

import struct

import pytest

from dvidzarr.core.errors import FormatError
from dvidzarr.wire.blockstream import decode_frames, encode_frame


def test_frame_matches_the_specification() -> None:
    # E6: block (1, 0, 0), 8 raw voxels
    wire = bytes.fromhex("01000000 00000000 00000000 08000000 020306070A0B0E0F")
    assert encode_frame((0, 0, 1), wire[16:]) == wire


def test_frames_keep_order_and_negative_coordinates() -> None:
    wire = encode_frame((-3, 2, -1), b"ab") + encode_frame((0, 0, 0), b"")
    frames = [(frame.coord_zyx, bytes(frame.payload)) for frame in decode_frames(wire, 2)]
    assert frames == [((-3, 2, -1), b"ab"), ((0, 0, 0), b"")]


@pytest.mark.parametrize(
    "wire",
    [
        bytes(15),
        struct.pack("<4i", 0, 0, 0, 5) + b"abcd",
        struct.pack("<4i", 0, 0, 0, -1),
        struct.pack("<4i", 0, 0, 0, 9) + bytes(9),
    ],
    ids=["header cut", "payload cut", "negative", "beyond the maximum"],
)
def test_malformed_streams_are_refused(wire: bytes) -> None:
    with pytest.raises(FormatError):
        list(decode_frames(wire, 8))
