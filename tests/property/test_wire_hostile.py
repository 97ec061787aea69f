"""Hostile bytes against every decoder of the wire: `FormatError`, and no more memory than the geometry declares."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.core.errors import FormatError
from dvidzarr.wire import compression as c
from dvidzarr.wire.blockstream import decode_frames, encode_frame
from dvidzarr.wire.images import decode_jpeg_gray, encode_jpeg
from dvidzarr.wire.keyvalues import decode_key_values, decode_keys, key_value_head
from dvidzarr.wire.protobuf import BYTES, VARINT, fields, varint

VOXELS = np.arange(512, dtype=np.uint16).tobytes()
PIXELS = np.arange(128, dtype=np.uint8).reshape(8, 16)

Decoder = Callable[[bytes], int]

DECODERS: dict[str, tuple[bytes, Decoder, int]] = {
    "lz4": (c.lz4_encode(VOXELS), lambda data: len(c.lz4_decode(data, len(VOXELS))), len(VOXELS)),
    "lz4 prefixed": (
        c.lz4_prefixed_encode(VOXELS),
        lambda data: len(c.lz4_prefixed_decode(data, len(VOXELS))),
        len(VOXELS),
    ),
    "gzip": (c.gzip_encode(VOXELS), lambda data: len(c.gzip_decode_within(data, len(VOXELS))), len(VOXELS)),
    "jpeg": (encode_jpeg(PIXELS), lambda data: decode_jpeg_gray(data, 8, 16).nbytes, PIXELS.nbytes),
}
"""Name → good bytes, a decoder that returns how many bytes came out, and how many that must be."""


@pytest.mark.parametrize("name", DECODERS)
def test_good_bytes_come_out_whole(name: str) -> None:
    good, decode, size = DECODERS[name]
    assert decode(good) == size


@pytest.mark.parametrize("name", DECODERS)
@given(draw=st.data())
def test_whatever_is_done_to_bytes_the_size_is_right_or_they_are_refused(
    name: str, draw: st.DataObject
) -> None:
    good, decode, size = DECODERS[name]
    data = bytearray(good)
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(data)) | st.just(len(data)))
    tail = draw.draw(st.binary(max_size=20))
    try:
        assert decode(bytes(data[:cut]) + tail) == size
    except FormatError:
        return


@pytest.mark.parametrize("name", ["lz4 prefixed", "gzip"])
@pytest.mark.parametrize("cut", [0, 1, 3, 7, -1])
def test_truncated_bytes_are_refused(name: str, cut: int) -> None:
    good, decode, _ = DECODERS[name]
    with pytest.raises(FormatError):
        decode(good[:cut])


@given(st.binary(max_size=200))
def test_any_bytes_as_messages(data: bytes) -> None:
    for decode in (
        lambda: list(fields(memoryview(data), {1: BYTES, 2: VARINT})),
        lambda: decode_keys(data),
        lambda: list(decode_key_values(memoryview(data))),
    ):
        with suppress(FormatError):
            decode()


@given(
    st.lists(st.tuples(st.text(max_size=9).map(str.encode), st.binary(max_size=50)), max_size=5), st.data()
)
def test_messages_that_were_damaged(pairs: list[tuple[bytes, bytes]], draw: st.DataObject) -> None:
    good = b"".join(key_value_head(key, len(value)) + value for key, value in pairs)
    assert [(key, bytes(value)) for key, value in decode_key_values(memoryview(good))] == pairs
    data = bytearray(good)
    if data:
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        found = list(decode_key_values(memoryview(bytes(data))))
    except FormatError:
        return
    assert sum(len(value) for _, value in found) <= len(data)


@given(st.integers(0, (1 << 64) - 1))
def test_varints_round_trip(value: int) -> None:
    message = memoryview(varint(1 << 3) + varint(value))
    assert list(fields(message, {1: VARINT})) == [(1, value)]
    assert list(fields(message, {1: BYTES, 2: VARINT})) == []


@pytest.mark.parametrize("claimed", [-1, -(1 << 31), 65, (1 << 31) - 1])
def test_frames_that_claim_what_no_block_has(claimed: int) -> None:
    frame = bytearray(encode_frame((1, 2, 3), b"x" * 64))
    frame[12:16] = claimed.to_bytes(4, "little", signed=True)
    with pytest.raises(FormatError, match="claims"):
        list(decode_frames(bytes(frame), 64))


BOMBS = """
import gzip, resource, struct, sys
import numpy as np
from dvidzarr.core.errors import FormatError
from dvidzarr.wire import compression as c
from dvidzarr.wire.blockstream import decode_frames
from dvidzarr.wire.images import decode_jpeg_gray, encode_jpeg
from dvidzarr.wire.keyvalues import decode_key_values, decode_keys
from dvidzarr.wire.protobuf import varint

SIZE = 64**3
zeros = gzip.compress(bytes(1 << 24))
jpeg = bytearray(encode_jpeg(np.zeros((64, 64), np.uint8)))
at = jpeg.index(b"\\xff\\xc0")
jpeg[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
huge = varint(1 << 3 | 2) + varint((1 << 63) - 1)
bombs = {
    "gzip": lambda: c.gzip_decode_within(zeros * 64, SIZE),
    "gzip empty members": lambda: c.gzip_decode_within(gzip.compress(b"") * 20000 + zeros * 64, SIZE),
    "lz4": lambda: c.lz4_decode(b"\\x1f\\x00\\x01\\x00" + b"\\xff" * (1 << 20) + b"\\x00", SIZE),
    "lz4 prefixed": lambda: c.lz4_prefixed_decode(struct.pack("<I", 0xFFFFFFF0) + bytes(99), SIZE),
    "jpeg": lambda: decode_jpeg_gray(bytes(jpeg), 64, 64),
    "frames": lambda: list(decode_frames(struct.pack("<4i", 0, 0, 0, 0x7FFFFFFF) + bytes(99), SIZE)),
    "keys": lambda: decode_keys(huge),
    "key values": lambda: list(decode_key_values(memoryview(huge + bytes(99)))),
}
for bomb in bombs.values():  # loads what is loaded late
    try:
        bomb()
    except FormatError:
        pass
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)
for name, bomb in bombs.items():
    try:
        bomb()
    except FormatError:
        continue
    sys.exit(f"{name} was taken")
print("refused", len(bombs))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space")
def test_bombs_are_refused_with_little_memory() -> None:
    """The process may use 48 MiB more than its libraries; each bomb claims, or would become, a gigabyte or more."""
    command = (sys.executable, "-c", BOMBS)
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["refused", "8"]), done.stderr
