"""One chunked array in all its versions: objects on the store, found through postings. The fast path of every read.

Every object is written once. The first write of a chunk in a version goes to its Zarr key; a chunk that has an object
there already goes to a pack under `rewrites/`, until its version is locked and finished. Design: storage §4, §5.
"""

import threading
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np

from dvidzarr.core.errors import BusyError, CorruptionError, DvidzarrError
from dvidzarr.core.geometry import ZYX
from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.backend import Backend, Part
from dvidzarr.storage.cache import ChunkCache
from dvidzarr.storage.chunkindex import ChunkIndex
from dvidzarr.storage.chunkkeys import unpack_one
from dvidzarr.storage.chunkrecords import Receipt
from dvidzarr.storage.codecs import ChunkCodec, Encoded
from dvidzarr.storage.merging import Versions
from dvidzarr.storage.packs import Batch, pack_of
from dvidzarr.storage.runs import CHECKSUM, FLAGS, LENGTH, LOCATION, ORDINAL, ORIGIN, SEQUENCE, Row

_NUMBERS = count(1)
_STORED = "stored"
"""What the cache calls chunks as they lie on the store."""


class SupersededError(BusyError):
    """What was resolved can no longer be read: it was written again, longer ago than the grace period."""


class ChunkStore(ChunkIndex):
    """The chunks of one array (one scale of one instance).

    Values handed in are owned by the caller; what is guarded lies in `Postings` and `ChunkCache`.
    """

    def __init__(
        self,
        backend: Backend,
        prefix: str,
        scale: int,
        codec: ChunkCodec,
        versions: Versions,
        cache: ChunkCache,
    ) -> None:
        super().__init__(versions)
        self.codec = codec
        self.scale = scale
        self.refresh: Callable[[], None] = lambda: None
        """Called before a chunk that cannot be read is looked up again (followers read on in the log)."""
        self.failure: Callable[[int, str], DvidzarrError] = lambda _sequence, what: CorruptionError(what)
        """Gives the error for an object that is not as a record has it."""
        self._backend = backend
        self._prefix = prefix
        self._cache = cache
        self._number = next(_NUMBERS)
        self._folders: dict[int, str] = {}
        self._local = threading.local()

    # --- places ----------------------------------------------------------------------------------------------

    def folder(self, ordinal: int) -> str:
        """Return the folder of the array in the overlay of a version."""
        folder = self._folders.get(ordinal)
        if folder is None:
            folder = self._folders[ordinal] = (
                f"{self._prefix}/versions/{self._versions.id_of(ordinal)}/{self.scale}"
            )
        return folder

    def rewrites(self, ordinal: int) -> str:
        """Return the folder of the chunks that were written again in a version."""
        return f"{self._prefix}/rewrites/{self._versions.id_of(ordinal)}"

    def part(self, ordinal: int, coord: Sequence[int], location: int, length: int) -> Part:
        """Return where a chunk version lies: an object of its own, or a stretch of a pack."""
        if not location:
            return Part(f"{self.folder(ordinal)}/c/{coord[0]}/{coord[1]}/{coord[2]}")
        return Part(*pack_of(self.rewrites(ordinal), location), length)

    # --- writing ---------------------------------------------------------------------------------------------

    def write_object(
        self,
        ordinal: int,
        coord: ZYX,
        chunk: np.ndarray | Encoded,
        batch: Batch,
        *,
        again: bool,
        durable: bool,
    ) -> Receipt:
        """Encode a chunk and create its object; put it into a pack if the version has one already (`again`).

        If it shall be `durable`, `Backend.sync` with contents follows for an object, `batch.sync` for what is in packs.
        """
        encoded = chunk if isinstance(chunk, Encoded) else self.codec.encode(chunk)
        location, length = 0, len(encoded.data)
        part = self.part(ordinal, coord, 0, length)
        if again or not self._backend.create(part.key, encoded.data, sync=False, soon=durable):
            location = batch.append(encoded.data)
            part = self.part(ordinal, coord, location, length)
        return Receipt(coord, location, length, encoded.checksum, 0, part)

    # --- reading ---------------------------------------------------------------------------------------------

    def read(
        self,
        key: int,
        row: Row,
        lineage: Lineage,
        out: np.ndarray | None = None,
        *,
        keep: bool = False,
        exact: bool = False,
    ) -> np.ndarray | None:
        """Return one decoded chunk.

        Parameters
        ----------
        key, row
            A packed chunk key and what `resolve` said about it.
        out : ndarray, optional
            C-contiguous array to decode into; else the result is the thread's scratch array, valid until its next read.
        keep : bool
            Offer the chunk to the cache of decoded chunks; the result is then memory of its own, or the cache's.
        exact : bool
            Raise `SupersededError` rather than return what a later request wrote: its other chunks may be missing.

        Returns
        -------
        ndarray or None
            None if the chunk was deleted since `resolve`. Raises `CorruptionError` if the bytes are not those recorded.
        """
        while True:
            cached = self._cache.get((self._number, key, row[SEQUENCE], ""))
            if cached is not None:
                if out is None:
                    return cached
                out[...] = cached
                return out
            target = np.empty(self.codec.shape, self.codec.dtype) if keep else out
            if target is None:
                target = self.scratch()
            problem = self._load(key, row, target)
            if problem is None:
                break
            newer = self._newer(key, row, lineage, problem, exact=exact)
            if newer is None:
                return None
            row = newer
        if keep:
            self._cache.put((self._number, key, row[SEQUENCE], ""), target)
            if out is not None:
                out[...] = target
                return out
        return target

    def scratch(self) -> np.ndarray:
        """Return the array for one decoded chunk that the calling thread uses again and again."""
        try:
            return self._local.chunk  # type: ignore[no-any-return]
        except AttributeError:
            self._local.chunk = np.empty(self.codec.shape, self.codec.dtype)
            return self._local.chunk  # type: ignore[no-any-return]

    def _buffer(self, length: int) -> bytearray:
        buffer = getattr(self._local, "raw", None)
        if buffer is None or len(buffer) < length:
            buffer = self._local.raw = bytearray(length + (length >> 2))
        return buffer

    def _fetch(self, key: int, row: Row, buffer: memoryview) -> str | None:
        """Read a chunk version into a buffer one byte longer; return what is wrong with it, None if nothing is."""
        length = row[LENGTH]
        part = self.part(row[ORIGIN], unpack_one(key), row[LOCATION], length)
        wanted = buffer[:length] if part.length else buffer  # of an object all is wanted: it may be too long
        read = self._backend.read_into(part.key, wanted, part.offset)
        if read is None:
            return "the object is missing"
        if read != length:
            return f"the object has {'more than ' if read > length else ''}{min(read, length)} bytes, {length} are recorded"
        return None

    def _load(self, key: int, row: Row, target: np.ndarray) -> str | None:
        """Read and decode an object; return what is wrong with it, None if nothing is."""
        length = row[LENGTH]
        buffer = memoryview(self._buffer(length + 1))[: length + 1]
        problem = self._fetch(key, row, buffer)
        if problem is not None:
            return problem
        try:
            self.codec.decode(buffer[:length], row[CHECKSUM], target)
        except CorruptionError as error:
            return str(error)
        return None

    def stored(self, key: int, row: Row) -> tuple[np.ndarray, str | None]:
        """Return the bytes (uint8) of a chunk version as it lies on the store, and what is wrong with them."""
        buffer = np.empty(row[LENGTH] + 1, np.uint8)
        problem = self._fetch(key, row, memoryview(buffer))
        data = buffer[: row[LENGTH]]
        if problem is None and not self.codec.is_whole(memoryview(data), row[CHECKSUM]):
            problem = "the bytes do not have the recorded checksum"
        return data, problem

    def encoded(self, key: int, row: Row, lineage: Lineage, *, exact: bool = False) -> memoryview | None:
        """Return one chunk as it lies on the store, found to be as recorded; the rest is as for `read`."""
        place = (self._number, key, row[SEQUENCE], _STORED)
        kept = self._cache.get(place)
        if kept is not None:
            return memoryview(kept)
        data, problem = self.stored(key, row)
        if problem is None:
            self._cache.put(place, data)
            return memoryview(data)
        # Superseded since it was resolved, or damaged: this looks again, and raises if it is damage.
        chunk = self.read(key, row, lineage, exact=exact)
        return None if chunk is None else memoryview(self.codec.encode(chunk).data)

    def encoded_as(
        self, name: str, encode: Callable[[np.ndarray], bytes], key: int, row: Row, lineage: Lineage
    ) -> np.ndarray | None:
        """Return the bytes (uint8) that `encode` makes of one chunk; the cache keeps them under the name of the encoding.

        As `read` with `exact`: None if the chunk was deleted.
        """
        place = (self._number, key, row[SEQUENCE], name)
        packed = self._cache.get(place)
        if packed is None:
            chunk = self.read(key, row, lineage, exact=True)
            if chunk is None:
                return None
            packed = np.frombuffer(encode(chunk), np.uint8)
            self._cache.put(place, packed, dear=True)
        return packed

    def kept_as(self, name: str, key: int, lineage: Lineage) -> np.ndarray | None:
        """Return what `encoded_as` would find in the cache, None if nothing: for event loops."""
        row = self.find(key, lineage) if self.is_complete(lineage.ordinal) else None
        return None if row is None else self._cache.get((self._number, key, row[SEQUENCE], name))

    def problem(self, key: int, row: Row) -> str | None:
        """Return what is wrong with the stored object of a chunk version, None if nothing is."""
        return self._load(key, row, np.empty(self.codec.shape, self.codec.dtype))

    def _newer(self, key: int, row: Row, lineage: Lineage, problem: str, *, exact: bool) -> Row | None:
        """Look a chunk up again that may have been superseded, None if it was deleted; else its object is damaged."""
        self.refresh()
        fresh: Row = self.resolve(np.array([key]), lineage)[0].tolist()
        if fresh[:2] == row[:2]:
            version = self._versions.id_of(row[ORIGIN])
            raise self.failure(
                row[SEQUENCE],
                f"chunk {unpack_one(key)} (z, y, x) of version {version}, scale {self.scale}: {problem}",
            )
        if exact and fresh[SEQUENCE] != row[SEQUENCE]:
            raise SupersededError(f"chunk {unpack_one(key)} (z, y, x) was written again while it was read")
        return None if fresh[ORDINAL] < 0 or fresh[FLAGS] else fresh
