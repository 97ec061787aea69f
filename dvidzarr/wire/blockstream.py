"""DVID's stream of blocks: per block `bx, by, bz, nbytes` (int32 little-endian) and the payload.

See spec-voxels §6.7.
The stream has neither head nor end mark; absent blocks have no frame.
"""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from dvidzarr.core.errors import FormatError
from dvidzarr.core.geometry import ZYX

if TYPE_CHECKING:
    from typing_extensions import Buffer

_HEAD = struct.Struct("<4i")


class Frame(NamedTuple):
    """One block of a stream: its block coordinate (z, y, x) and its still encoded bytes."""

    coord_zyx: ZYX
    payload: memoryview


def frame_head(coord_zyx: ZYX, nbytes: int) -> bytes:
    """Return the 16 bytes that precede a payload of `nbytes`."""
    z, y, x = coord_zyx
    return _HEAD.pack(x, y, z, nbytes)


def encode_frame(coord_zyx: ZYX, payload: "Buffer") -> bytes:
    """Return one frame."""
    view = memoryview(payload).cast("B")
    return b"".join((frame_head(coord_zyx, view.nbytes), view))


def decode_frames(data: "Buffer", max_payload: int) -> Iterator[Frame]:
    """Yield the frames of a whole stream without copying the payloads.

    Raises
    ------
    FormatError
        If the stream ends inside a frame, or a payload is negative or longer than `max_payload`.
    """
    view = memoryview(data).cast("B")
    at = 0
    while at < len(view):
        if at + _HEAD.size > len(view):
            raise FormatError(f"block stream ends inside a frame header, at byte {at} of {len(view)}")
        x, y, z, nbytes = _HEAD.unpack_from(view, at)
        at += _HEAD.size
        if not 0 <= nbytes <= max_payload:
            raise FormatError(
                f"block ({x},{y},{z}) claims {nbytes} bytes; at most {max_payload} are possible"
            )
        if at + nbytes > len(view):
            raise FormatError(f"block ({x},{y},{z}) claims {nbytes} bytes, {len(view) - at} are left")
        yield Frame((z, y, x), view[at : at + nbytes])
        at += nbytes
