"""Key-value instances as Python: a mutable mapping from text to bytes at each version. No web in here."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.ids import NO_AUTHOR, Author
from dvidzarr.core.texts import check_text
from dvidzarr.repo.datatype import DataType
from dvidzarr.repo.instance import Instance
from dvidzarr.repo.view import View
from dvidzarr.storage.blobs import BlobWriter, remove_blob, write_blob
from dvidzarr.storage.places import Place
from dvidzarr.storage.words import Blob, Value
from dvidzarr.storage.writing import (
    PIECE,
    put_documents,
    read_pieces,
    read_place,
    read_slice,
    write_documents,
)

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Ref

MAX_KEY = 64 << 10
"""Longest key in bytes."""
_WHOLE = (bytes, bytearray, memoryview)


def key_bytes(key: str) -> bytes:
    """Return the bytes of a key: UTF-8, other bytes as surrogate escapes.

    Raises
    ------
    InvalidInputError
        It is no text, empty, longer than `MAX_KEY`, or holds a NUL (DVID loses neighbours of such keys).
    """
    try:
        raw = check_text(key, "a key").encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{key[:80]!r} is no key: {error.reason}") from None
    return check_key(raw)


def check_key(raw: bytes) -> bytes:
    """Return a key that is given as bytes; raise unless it can be one."""
    if not raw or len(raw) > MAX_KEY or b"\0" in raw:
        raise InvalidInputError(f"{raw[:80]!r} is no key: 1 to {MAX_KEY} bytes, none of them 0")
    return raw


def value_bytes(value: object) -> bytes:
    """Return a value that is given as a whole; `InvalidInputError` unless it is bytes: `bytes(5)` would be five zeros."""
    if not isinstance(value, _WHOLE):
        raise InvalidInputError(f"a value is bytes, not {type(value).__name__}: {str(value)[:80]}")
    return bytes(value)


def _in_pieces(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, *_WHOLE))


def key_text(raw: bytes) -> str:
    """Return a key as text."""
    return raw.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Put:
    """A write of one request: a value, a blob that holds it, or None for a deletion."""

    key: bytes
    value: Value
    author: Author = NO_AUTHOR


class KeyValueView(View, MutableMapping[str, bytes]):
    """The keys of one version and their values.

    Single writes are one request each; `update` and `remove` write many keys at once, all or nothing. Iteration is in
    the order of the keys' bytes. A text that can be no key (see `key_bytes`) raises `InvalidInputError` everywhere but in
    `range` and `between`; a value that is not as it was written raises `CorruptionError`.
    """

    instance: "KeyValueInstance"
    __hash__ = View.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    # --- reading ---------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> bytes:
        raw = key_bytes(key)
        place = self.find(raw)
        if place is None:
            raise KeyError(key)
        return self.read(raw, place)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.find(key_bytes(key)) is not None

    def __iter__(self) -> Iterator[str]:
        return map(key_text, self.listed())

    def __len__(self) -> int:
        return len(self.listed())

    def range(self, first: str = "", last: str | None = None) -> Iterator[tuple[str, bytes]]:
        """Yield (key, value) for first ≤ key ≤ last."""
        for raw, place in self.places(*_bounds(first, last)):
            yield key_text(raw), self.read(raw, place)

    def between(self, first: str, last: str) -> list[str]:
        """Return the keys from `first` to `last`, both inclusive."""
        return [key_text(raw) for raw in self.listed(*_bounds(first, last))]

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those keys that exist, all of one state."""
        wanted = list(dict.fromkeys(keys))
        raw = [key_bytes(key) for key in wanted]
        places = zip(wanted, raw, self.find_all(raw), strict=True)
        return {key: self.read(one, place) for key, one, place in places if place is not None}

    def get_slice(self, key: str, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) of a value without reading the rest; `KeyError` if the key is missing."""
        raw = key_bytes(key)
        place = self.find(raw)
        if place is None:
            raise KeyError(key)
        return self.read_slice(raw, place, *slice(start, stop).indices(place.length)[:2])

    # --- writing ---------------------------------------------------------------------------------------------

    def __setitem__(self, key: str, value: bytes) -> None:
        self.put(key, value)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self.remove([key])

    def put(self, key: str, value: bytes | Iterable[bytes], author: Author = NO_AUTHOR) -> None:
        """Set a value, given whole or in pieces that are written as they come.

        Raises
        ------
        InvalidInputError
            The key is empty, longer than `MAX_KEY` bytes, or holds a NUL; the value is not bytes.
        VersionLockedError
            The version is locked.
        ForbiddenError
            The store was opened for reading.
        BusyError
            Another process writes to the store, or the instance is damaged.
        StorageError
            It could not be made durable (`NoSpaceError` if there is no room): nothing was changed.
        """
        raw = key_bytes(key)
        if not _in_pieces(value):
            self.put_all([Put(raw, value_bytes(value), author)])
            return
        with self.blob_writer() as writer:
            for piece in value:
                writer.write(value_bytes(piece))
            self.put_all([Put(raw, writer.finish(), author)])

    def update(self, other: Any = (), /, **more: bytes) -> None:  # noqa: ANN401 - as dict has it
        """Set many values (a mapping, or pairs) as one request: all of them, or none. Raises as `put`."""
        pairs = other.items() if isinstance(other, Mapping) else other
        self.put_many(dict((*pairs, *more.items())))

    def put_many(self, values: Mapping[str, bytes], author: Author = NO_AUTHOR) -> None:
        """Set many values as one request: all of them, or none. Raises as `put`."""
        self.write([(key_bytes(key), value_bytes(value)) for key, value in values.items()], author)

    def remove(self, keys: Iterable[str], author: Author = NO_AUTHOR) -> None:
        """Delete keys, whether they exist or not, as one request. Raises as `put`."""
        self.write([(key_bytes(key), None) for key in dict.fromkeys(keys)], author)

    def clear(self) -> None:
        """Delete all keys as one request. Raises as `put`."""
        self.remove(list(self))

    # --- keys as bytes: what the web needs -------------------------------------------------------------------

    def find(self, key: bytes) -> Place | None:
        """Return where a value lies, None if the key is missing."""
        lineage = self.lineage()
        return self.instance.dataset.documents.find(key, lineage)

    def find_now(self, key: bytes) -> tuple[bool, Place | None]:
        """Do as `find` if that needs no waiting (True, …), else (False, None): for event loops."""
        if not self.instance.current:
            return False, None
        return self.instance.dataset.documents.find_now(key, self.lineage())

    def find_all(self, keys: Sequence[bytes]) -> list[Place | None]:
        """Return where the values of keys lie, all of one state."""
        lineage = self.lineage()
        return self.instance.dataset.documents.find_all(keys, lineage)

    def listed(self, first: bytes = b"", last: bytes | None = None) -> list[bytes]:
        """Return the keys in [first, last]."""
        lineage = self.lineage()
        return self.instance.dataset.documents.keys(lineage, first, last)

    def places(self, first: bytes = b"", last: bytes | None = None) -> Iterator[tuple[bytes, Place]]:
        """Yield (key, place) of the keys in [first, last]."""
        lineage = self.lineage()
        return self.instance.dataset.documents.range(lineage, first, last)

    def read(self, key: bytes, place: Place) -> bytes:
        """Return the value at a place."""
        return read_place(self.instance.dataset, key, place)

    def read_slice(self, key: bytes, place: Place, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) of the value at a place."""
        return read_slice(self.instance.dataset, key, place, start, stop)

    def read_pieces(self, key: bytes, place: Place) -> Iterator[bytes]:
        """Yield the value at a place in pieces of at most 1 MiB."""
        return read_pieces(self.instance.dataset, key, place)

    def slice_pieces(self, key: bytes, place: Place, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes [start, stop) of the value at a place in pieces of at most 1 MiB."""
        for at in range(start, stop, PIECE):
            yield self.read_slice(key, place, at, min(at + PIECE, stop))

    def put_all(self, puts: Sequence[Put]) -> None:
        """Write what several requests want, in order, one log record each, at the price of one."""
        with self.writing() as dataset:
            about = self._about()
            put_documents(dataset, self.ordinal, [(put.key, put.value, put.author, about) for put in puts])

    def write(self, writes: Sequence[tuple[bytes, Value]], author: Author = NO_AUTHOR) -> None:
        """Write several keys as one request; None deletes. Of a key that comes twice, the last counts."""
        if writes:
            with self.writing() as dataset:
                write_documents(dataset, self.ordinal, writes, author, self._about())

    def _about(self) -> dict[str, Any]:
        """Unversioned data belong to no version, but the mutation record names the one that was asked for."""
        return {} if self.instance.versioned else {"at": self.version.id}

    def blob_writer(self) -> BlobWriter:
        """Return a writer for a large value, to be named by a `Put` afterwards."""
        with self.writing() as dataset:
            return BlobWriter(dataset)

    def write_blob(self, value: bytes) -> Blob:
        """Write a large value, to be named by a `Put` afterwards."""
        with self.writing() as dataset:
            return write_blob(dataset, value)

    def discard(self, blob: Blob) -> None:
        """Remove a blob that was written but not put."""
        remove_blob(self.instance.dataset, blob)


def _bounds(first: str, last: str | None) -> tuple[bytes, bytes | None]:
    """Return the bytes of two ends, which need not be keys."""
    ends = [None if end is None else end.encode("utf-8", "surrogateescape") for end in (first, last)]
    return ends[0] or b"", ends[1]


class KeyValueInstance(Instance):
    """A versioned map from text to bytes."""

    view_class = KeyValueView

    def at(self, ref: "Ref | None" = None) -> KeyValueView:
        """Return the view at a version: a reference, a `Version`, or None for the head of master.

        Raises as `Catalog.resolve`.
        """
        return cast("KeyValueView", super().at(ref))


KEYVALUE = DataType(
    name="keyvalue",
    url="github.com/janelia-flyem/dvid/datatype/keyvalue",
    version="0.2",
    instance=KeyValueInstance,
    endpoints="dvidzarr.datatypes.keyvalue.http:ENDPOINTS",
    help="datatypes/keyvalue/help.md",
)
