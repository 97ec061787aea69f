"""Compressed byte strings as DVID sends and takes them.

Every malformed, truncated or oversized input raises `FormatError`. Memory is bounded by the size that the
caller's geometry gives, never by what the bytes claim.
"""

import struct
import zlib
from typing import TYPE_CHECKING, Protocol

import lz4.block
from isal import isal_zlib

from dvidzarr.core.errors import FormatError

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Packer(Protocol):
    """Compresses a stream piece by piece."""

    def compress(self, data: "Buffer", /) -> bytes:
        """Return what is ready of the stream."""

    def flush(self) -> bytes:
        """Return the rest."""


_GZIP_WINDOW = 31
_GZIP_FIRST_WINDOW, _GZIP_LAST_WINDOW = 1 << 10, 1 << 20
_ISAL_LEVEL = 1
_ISAL_BEST_LEVEL = 2
_ZLIB_FROM_LEVEL = 7
"""gzip:7 to gzip:9 ask for small output: zlib. Below, isal is as good and 5 times as fast."""


def lz4_encode(data: "Buffer") -> bytes:
    """Return one bare LZ4 block, without frame or length prefix (DVID's `compression=lz4`)."""
    packed: bytes = lz4.block.compress(data, store_size=False)
    return packed


def lz4_decode(data: "Buffer", size: int) -> bytes:
    """Return the `size` bytes that one bare LZ4 block holds."""
    if not memoryview(data).nbytes:
        raise FormatError("received 0 LZ4 compressed bytes")
    try:
        plain: bytes = lz4.block.decompress(data, uncompressed_size=size)
    except (lz4.block.LZ4BlockError, ValueError, OverflowError) as error:
        raise FormatError(f"Malformed compression stream: not an LZ4 block of {size} bytes") from error
    if len(plain) != size:
        raise FormatError(f"LZ4 data hold {len(plain)} bytes, expected {size}")
    return plain


def lz4_prefix(size: int) -> bytes:
    """Return what stands before a bare LZ4 block of `size` bytes to make it a length-prefixed one."""
    return struct.pack("<I", size)


def lz4_prefixed_encode(data: "Buffer") -> bytes:
    """Return an LZ4 block behind its uncompressed length, uint32 little-endian (spec-voxels §6.7)."""
    packed: bytes = lz4.block.compress(data, store_size=True)
    return packed


def lz4_prefixed_decode(data: "Buffer", size: int) -> bytes:
    """Return the `size` bytes of a length-prefixed LZ4 block; another prefix is an error."""
    view = memoryview(data).cast("B")
    if len(view) < struct.calcsize("<I"):
        raise FormatError(f"LZ4 data of {len(view)} bytes have no room for their length")
    (claimed,) = struct.unpack_from("<I", view)
    if claimed != size:
        raise FormatError(f"LZ4 data claim {claimed} bytes, expected {size}")
    return lz4_decode(view[4:], size)


def gzip_encode(data: "Buffer", level: int = _ISAL_LEVEL) -> bytes:
    """Return a gzip stream. Levels are DVID's 1 to 9, or -1 for its default."""
    if level >= _ZLIB_FROM_LEVEL:
        packer = zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW)
        return packer.compress(data) + packer.flush()
    effort = _ISAL_BEST_LEVEL if level > _ISAL_LEVEL else _ISAL_LEVEL
    return isal_zlib.compress(data, level=effort, wbits=_GZIP_WINDOW)


def gzip_packer() -> "Packer":
    """Return what compresses a gzip stream piece by piece: `compress(piece)` and, at the end, `flush()`."""
    packer: Packer = isal_zlib.compressobj(level=_ISAL_LEVEL, wbits=_GZIP_WINDOW)
    return packer


def gzip_decode_within(data: "Buffer", limit: int) -> bytes:
    """Return what a gzip stream of one or more members holds; more than `limit` bytes are an error."""
    view = memoryview(data).cast("B")
    if not view:
        raise FormatError("gzip: the stream is empty")
    pieces: list[bytes] = []
    at = 0
    while at < len(view):
        piece, at = _gzip_member(view, at, limit)
        limit -= len(piece)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _gzip_member(view: memoryview, at: int, limit: int) -> tuple[bytes, int]:
    """Return (content of the member that begins at byte `at`, where it ends)."""
    unpacker = isal_zlib.decompressobj(wbits=_GZIP_WINDOW)
    pieces: list[bytes] = []
    left = limit + 1  # one byte more, so that surplus is seen
    # The decoder copies what follows a member: small windows first, or thousands of tiny members cost as many
    # copies of the whole stream.
    window = _GZIP_FIRST_WINDOW
    while not unpacker.eof:
        fed = view[at : at + window]
        if not fed:
            raise FormatError("gzip: unexpected end of the stream")
        try:
            pieces.append(unpacker.decompress(fed, left))
        except (isal_zlib.error, ValueError, EOFError) as error:  # type: ignore[misc]  # untyped stub
            raise FormatError(f"gzip: invalid stream ({error})") from error
        left -= len(pieces[-1])
        if left <= 0:
            raise FormatError(f"gzip: the stream holds more than {limit} bytes")
        at += len(fed) - len(unpacker.unconsumed_tail) - len(unpacker.unused_data)
        window = min(2 * window, _GZIP_LAST_WINDOW)
    return b"".join(pieces), at


def snappy_encode(data: "Buffer") -> bytes:
    """Return one snappy block (no framing)."""
    from cramjam import snappy  # noqa: PLC0415 - few instances are stored as snappy: not worth start-up time

    return bytes(snappy.compress_raw(data))
