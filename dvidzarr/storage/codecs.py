"""How a chunk becomes bytes and back: one Zarr codec chain per kind of data, always ending in crc32c.

numcodecs releases the GIL while it works; its codecs are made per array and used from many threads.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from crc32c import crc32c
from numcodecs import blosc

from dvidzarr.core.errors import CorruptionError

TRAILER = 4


@dataclass(frozen=True, slots=True)
class Encoded:
    """A chunk as it lies on the store: `data` ends with the crc32c of what precedes it, `checksum`."""

    data: bytes
    checksum: int


class ChunkCodec:
    """Chunks of one shape and dtype, C order, little-endian: ``bytes`` → ``blosc(lz4, noshuffle)`` → ``crc32c``.

    Raises
    ------
    CorruptionError
        From `decode`, if length, recorded checksum, trailer and content do not agree.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        blosc.use_threads = False  # this package brings its own threads; blosc's would fight them
        self.shape = shape
        self.dtype = dtype
        self.nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        self._blosc = blosc.Blosc("lz4", clevel=5, shuffle=blosc.NOSHUFFLE)

    def encode(self, chunk: np.ndarray) -> Encoded:
        """Encode one chunk, an array of `shape` and `dtype`, C-contiguous."""
        body = self._blosc.encode(chunk)
        checksum = crc32c(body)
        return Encoded(body + struct.pack("<I", checksum), checksum)

    def decode(self, data: memoryview, checksum: int, out: np.ndarray) -> None:
        """Decode into `out`, a C-contiguous array of `shape` and `dtype`, after comparing the checksums."""
        body = data[:-TRAILER]
        if crc32c(body) != checksum or struct.unpack_from("<I", data, len(body))[0] != checksum:
            raise CorruptionError("the bytes do not have the recorded checksum")
        try:
            self._blosc.decode(body, out=out)
        except (RuntimeError, ValueError) as error:
            raise CorruptionError(f"the bytes cannot be decoded: {error}") from error

    def check(self, data: bytes) -> int:
        """Return the checksum of an encoded chunk that came from outside; raise if it is not a whole, valid one."""
        if len(data) <= TRAILER + 16:
            raise CorruptionError(f"{len(data)} bytes are too few for an encoded chunk")
        checksum: int = struct.unpack_from("<I", data, len(data) - TRAILER)[0]
        (declared,) = struct.unpack_from("<I", data, 4)  # blosc header: uncompressed size
        if declared != self.nbytes:
            raise CorruptionError(f"an encoded chunk of {declared} bytes, {self.nbytes} were expected")
        self.decode(memoryview(data), checksum, np.empty(self.shape, self.dtype))
        return checksum

    def metadata(self) -> list[dict[str, Any]]:
        """Return the `codecs` member of the array's Zarr v3 metadata."""
        name: dict[str, Any] = {"name": "bytes"}
        if self.dtype.itemsize > 1:
            name["configuration"] = {"endian": "little"}
        packed = {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0}
        return [name, {"name": "blosc", "configuration": packed}, {"name": "crc32c"}]
