"""How a chunk becomes bytes and back: one Zarr codec chain per kind of data, always ending in crc32c.

numcodecs releases the GIL while it works; its codecs are used from many threads.
"""

import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from crc32c import crc32c
from numcodecs import blosc, zstd

from dvidzarr.core.errors import CorruptionError

TRAILER = 4


@dataclass(frozen=True, slots=True)
class Encoded:
    """A chunk as it lies on the store: `data` ends with the crc32c of what precedes it, `checksum`."""

    data: bytes
    checksum: int


class Compressor(Protocol):
    """The compressing link of a codec chain."""

    def compress(self, chunk: np.ndarray) -> bytes:
        """Compress a C-contiguous array."""
        ...

    def decompress(self, body: memoryview, out: np.ndarray) -> None:
        """Decompress into an array of exactly the size that `size_of` says; RuntimeError or ValueError if impossible."""
        ...

    def size_of(self, body: memoryview) -> int:
        """Return how many bytes a compressed chunk declares to hold, -1 if it declares nothing."""
        ...

    def lz4_block(self, body: memoryview) -> memoryview | None:
        """Return the one bare LZ4 block that a compressed chunk consists of, None if it is made otherwise."""
        ...

    def metadata(self) -> dict[str, Any]:
        """Return the codec in Zarr v3 metadata."""
        ...


class BloscLz4:
    """``blosc(lz4, noshuffle)``: fastest for gray values, which hardly any codec makes smaller.

    A chunk of up to 4 MiB is one LZ4 block, so that it can go to DVID's clients as it lies on the store.
    """

    _HEADER = 16
    _MAX_BLOCK = 4 << 20
    _LZ4, _ONE_STREAM, _COPIED, _SHUFFLED = 1 << 5, 1 << 4, 1 << 1, 1 << 2 | 1  # flags of the blosc header
    _FORMAT = 7 << 5

    def compress(self, chunk: np.ndarray) -> bytes:
        """Compress a C-contiguous array."""
        plain = chunk.reshape(-1).view(np.uint8)
        packed: bytes = blosc.compress(plain, b"lz4", 5, blosc.NOSHUFFLE, min(plain.nbytes, self._MAX_BLOCK))
        return packed

    def decompress(self, body: memoryview, out: np.ndarray) -> None:
        """Decompress into `out`."""
        blosc.decompress(body, out)

    def lz4_block(self, body: memoryview) -> memoryview | None:
        """Return the LZ4 block of a chunk that is not shuffled, cut into several, or kept as it is (blosc 1 format).

        Chunks that come through Zarr may be made so.
        """
        _, _, flags, width, nbytes, block = struct.unpack_from("<4B2I", body)
        split = width > 1 and not flags & self._ONE_STREAM
        if (
            flags & self._FORMAT != self._LZ4
            or flags & (self._COPIED | self._SHUFFLED)
            or split
            or block < nbytes
        ):
            return None
        (start,) = struct.unpack_from("<i", body, self._HEADER)
        (length,) = struct.unpack_from("<i", body, start)
        return body[start + 4 : start + 4 + length] if length < nbytes else None

    def size_of(self, body: memoryview) -> int:
        """Return the size in the blosc header."""
        return int(struct.unpack_from("<I", body, 4)[0]) if len(body) >= self._HEADER else -1

    def metadata(self) -> dict[str, Any]:
        """Return the codec in Zarr v3 metadata."""
        packed = {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0}
        return {"name": "blosc", "configuration": packed}


class Zstd1:
    """``zstd(1)``, unshuffled: labels are long runs of whole words, which shuffling would only tear apart."""

    _MAGIC = b"\x28\xb5\x2f\xfd"
    _HEADER = 18
    _LENGTHS = (("<B", 0), ("<H", 256), ("<I", 0), ("<Q", 0))
    _DICTIONARY = (0, 1, 2, 4)

    def compress(self, chunk: np.ndarray) -> bytes:
        """Compress a C-contiguous array."""
        packed: bytes = zstd.compress(chunk, 1)
        return packed

    def decompress(self, body: memoryview, out: np.ndarray) -> None:
        """Decompress into `out`."""
        zstd.decompress(body, out)

    def size_of(self, body: memoryview) -> int:
        """Return the content size of the frame header (RFC 8878 §3.1.1)."""
        head = bytes(body[: self._HEADER]).ljust(self._HEADER, b"\0")
        kind, single = head[4] >> 6, head[4] >> 5 & 1
        if head[:4] != self._MAGIC or not (kind or single):
            return -1
        form, offset = self._LENGTHS[kind]
        at = 6 - single + self._DICTIONARY[head[4] & 3]
        return int(struct.unpack_from(form, head, at)[0]) + offset

    def lz4_block(self, body: memoryview) -> memoryview | None:
        """Return None."""
        return None

    def metadata(self) -> dict[str, Any]:
        """Return the codec in Zarr v3 metadata."""
        return {"name": "zstd", "configuration": {"level": 1, "checksum": False}}


GRAY: Compressor = BloscLz4()
"""For intensities of any width."""

LABELS: Compressor = Zstd1()
"""For ids."""


class ChunkCodec:
    """Chunks of one shape and dtype, C order, little-endian: ``bytes`` → a `Compressor` → ``crc32c``.

    Raises
    ------
    CorruptionError
        From `decode`, if length, recorded checksum, trailer and content do not agree.
    """

    def __init__(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], compressor: Compressor = GRAY
    ) -> None:
        blosc.use_threads = False  # this package brings its own threads; blosc's would fight them
        self.shape = shape
        self.dtype = dtype
        self.nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        self._compressor = compressor

    def encode(self, chunk: np.ndarray) -> Encoded:
        """Encode one chunk, an array of `shape` and `dtype`, C-contiguous."""
        body = self._compressor.compress(chunk)
        checksum = crc32c(body)
        return Encoded(body + struct.pack("<I", checksum), checksum)

    def is_whole(self, data: memoryview, checksum: int) -> bool:
        """Tell whether an encoded chunk has the recorded checksum, as its trailer says too."""
        body = data[:-TRAILER]
        return bool(crc32c(body) == checksum and struct.unpack_from("<I", data, len(body))[0] == checksum)

    def decode(self, data: memoryview, checksum: int, out: np.ndarray) -> None:
        """Decode into `out`, a C-contiguous array of `shape` and `dtype`, after comparing the checksums."""
        if not self.is_whole(data, checksum):
            raise CorruptionError("the bytes do not have the recorded checksum")
        body = data[:-TRAILER]
        declared = self._compressor.size_of(body)
        if declared != self.nbytes:
            raise CorruptionError(f"an encoded chunk of {declared} bytes, {self.nbytes} were expected")
        try:
            self._compressor.decompress(body, out)
        except (RuntimeError, ValueError) as error:
            raise CorruptionError(f"the bytes cannot be decoded: {error}") from error

    def lz4_block(self, data: memoryview) -> memoryview | None:
        """Return the bare LZ4 block that an encoded chunk (whose checksum was compared) consists of, if it is one."""
        return self._compressor.lz4_block(data[:-TRAILER])

    def check(self, data: bytes) -> int:
        """Return the checksum of an encoded chunk that came from outside; raise if it is not a whole, valid one."""
        if len(data) <= TRAILER:
            raise CorruptionError(f"{len(data)} bytes are too few for an encoded chunk")
        checksum: int = struct.unpack_from("<I", data, len(data) - TRAILER)[0]
        self.decode(memoryview(data), checksum, np.empty(self.shape, self.dtype))
        return checksum

    def metadata(self) -> list[dict[str, Any]]:
        """Return the `codecs` member of the array's Zarr v3 metadata."""
        name: dict[str, Any] = {"name": "bytes"}
        if self.dtype.itemsize > 1:
            name["configuration"] = {"endian": "little"}
        return [name, self._compressor.metadata(), {"name": "crc32c"}]
