"""A version of an instance as a Zarr store: what zarr, dask and xarray see. Only this module imports zarr's internals."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from typing_extensions import override
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.core import default_buffer_prototype
from zarr.core.group import GroupMetadata
from zarr.core.metadata.v3 import ArrayV3Metadata

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.storage.zarrkeys import Source, VersionKeys


class VersionedStore(Store):
    """The Zarr store of one version.

    Parameters
    ----------
    source : Source
    arrays : mapping of str to int
        Path of each array that the instance declares → its scale. Empty: all keys are documents.
    read_only : bool
        Take no writes. A locked version takes none in any case.

    Notes
    -----
    Each value is written as one request, durable on return. Two writers must not change parts of one chunk at the
    same time, as with every Zarr store (`view.write` has no such rule). Unpickled stores are read-only.
    """

    supports_writes: bool = True
    supports_deletes: bool = True
    supports_listing: bool = True
    supports_consolidated_metadata: bool = False  # it would be a stale copy of what is derived

    def __init__(self, source: Source, arrays: Mapping[str, int], *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self._source = source
        self._keys = VersionKeys(source, arrays)

    # --- what it is ------------------------------------------------------------------------------------------

    @property
    @override
    def read_only(self) -> bool:
        """Whether it takes no writes."""
        return self._read_only or self._source.read_only

    @override
    def with_read_only(self, read_only: bool = False) -> "VersionedStore":
        """Return a store of the same version that does, or does not, take writes."""
        return type(self)(self._source, self._keys.arrays, read_only=read_only)

    @override
    def _check_writable(self) -> None:
        if self._read_only:  # else `Source.writing` tells better what is in the way
            super()._check_writable()

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VersionedStore):
            return False
        mine, theirs = ((s._source.url, s._keys.arrays, s.read_only) for s in (self, other))
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]  # as zarr's own stores

    def __reduce__(self) -> tuple[Callable[..., "VersionedStore"], tuple[Any, ...]]:
        return _reopen, (type(self), self._source, self._keys.arrays)

    def __str__(self) -> str:
        return self._source.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source.url!r})"

    # --- from threads ----------------------------------------------------------------------------------------

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return a value or a part of it, None if there is none."""
        data = self._keys.get(key)
        if data is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data[_part(byte_range, len(data))])

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a value.

        Raises
        ------
        VersionLockedError
            The version is locked.
        FormatError
            A chunk that the codecs of its array cannot decode.
        InvalidInputError
            Metadata of the instance that differ in more than shape and added attributes.
        """
        self._check_writable()
        data = value.to_bytes()
        if key in self._keys.derived:
            derived = _metadata(key, self._source.metadata()[key])
            self._keys.change_metadata(key, _metadata(key, data), derived)
        else:
            self._keys.put(key, data)

    def delete_sync(self, key: str) -> None:
        """Delete a value in this version; nothing happens if there is none."""
        self._check_writable()
        self._keys.delete(key)

    # --- as zarr calls it ------------------------------------------------------------------------------------

    @override
    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return a value or a part of it, None if there is none."""
        return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)

    @override
    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> "list[Buffer | None]":
        """Return parts of values in the given order."""
        return await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))

    @override
    async def exists(self, key: str) -> bool:
        """Tell whether there is a value."""
        return await asyncio.to_thread(self._keys.size, key) is not None

    @override
    async def getsize(self, key: str) -> int:
        """Return the length of a value in bytes."""
        size = await asyncio.to_thread(self._keys.size, key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    @override
    async def set(self, key: str, value: Buffer) -> None:
        """Write a value, see `set_sync`."""
        await asyncio.to_thread(self.set_sync, key, value)

    @override
    async def delete(self, key: str) -> None:
        """Delete a value in this version; nothing happens if there is none."""
        await asyncio.to_thread(self.delete_sync, key)

    @override
    async def delete_dir(self, prefix: str) -> None:
        """Delete all below a folder, unless that holds the metadata of the instance."""
        self._check_writable()
        self._keys.refuse_derived(prefix.rstrip("/"))
        await super().delete_dir(prefix)

    @override
    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        async for key in self.list_prefix(""):
            yield key

    @override
    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that start with a prefix."""
        for key in await asyncio.to_thread(self._keys.keys, prefix):
            yield key

    @override
    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a folder."""
        for name in await asyncio.to_thread(self._keys.children, prefix.strip("/")):
            yield name


def _reopen(store: type[VersionedStore], source: Source, arrays: Mapping[str, int]) -> VersionedStore:
    return store(source, arrays, read_only=True)


def _part(byte_range: ByteRequest | None, length: int) -> slice:
    match byte_range:
        case None:
            return slice(None)
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, None)
        case SuffixByteRequest(suffix):
            return slice(max(0, length - suffix), None)
    raise ValueError(f"Unexpected byte_range, got {byte_range}.")


def _metadata(key: str, data: bytes) -> dict[str, Any]:
    """Return a `zarr.json` as zarr spells it: with all that may be left out."""
    try:
        document = json.loads(data)
        array = document["node_type"] == "array"
        parsed = ArrayV3Metadata.from_dict(document) if array else GroupMetadata.from_dict(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(f"{key}: no metadata of Zarr v3: {error}") from None
    return parsed.to_dict()
