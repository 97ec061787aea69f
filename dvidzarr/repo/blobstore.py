"""Contents by reference: unversioned, shared by all repos of a store. Equal contents have one reference: a hash.

On the store it is a dataset like an instance's, in the folder `blobstore`: references are its documents.
"""

import base64
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from dvidzarr.core.errors import ForbiddenError, StorageError
from dvidzarr.core.ids import NO_AUTHOR, Author
from dvidzarr.storage.blobs import BlobWriter, remove_blob
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.durability import begin, flush
from dvidzarr.storage.frames import Entry
from dvidzarr.storage.merging import Unversioned
from dvidzarr.storage.places import IN_BLOB, VALUE, Place
from dvidzarr.storage.words import Blob
from dvidzarr.storage.writing import put_document, read_pieces
from dvidzarr.wire.fnv import Fnv128

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dvidzarr.repo.catalog import Catalog

_ID = f"{0xB10B:032x}"
_PREFIX = f"blobstore/{_ID}"


class _NoModel:
    """The documents are all there is."""

    def apply(self, entry: Entry, ordinal: int) -> None:
        """Take in a record."""

    def snapshot(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore nothing."""

    def blank(self) -> Self:
        """Return itself: it holds nothing."""
        return self


class BlobStore:
    """The blobs of a store. `_lock` guards opening, and makes "is it there, else add it" one step."""

    def __init__(self, catalog: "Catalog") -> None:
        self._catalog = catalog
        self._lock = threading.RLock()
        self._dataset: Dataset | None = None
        self._versions = Unversioned()

    @property
    def dataset(self) -> Dataset:
        """References and contents on the store, opened when first needed."""
        with self._lock:
            if self._dataset is None:
                if self._catalog.closed:
                    raise ForbiddenError(f"the store {self._catalog.url} is closed")
                dataset = Dataset(self._catalog.context, _PREFIX, _ID, self._versions, _NoModel())
                with _whole_or_closed(dataset):
                    dataset.open(writable=self._catalog.writing)
                    if dataset.writable:
                        begin(dataset)
                self._dataset = dataset
            return self._dataset

    def _writable(self) -> Dataset:
        self._catalog.become_writer()
        with self._lock:
            dataset = self.dataset
            if not dataset.writable:
                self._dataset = None  # if it fails half way, all of it is done again
                with _whole_or_closed(dataset):
                    dataset.promote()
                    begin(dataset)
                self._dataset = dataset
            return dataset

    def writer(self) -> "ReferenceWriter":
        """Return a writer that takes contents piece by piece."""
        return ReferenceWriter(self, BlobWriter(self._writable()))

    def put(self, value: bytes | memoryview, author: Author = NO_AUTHOR) -> str:
        """Store contents; return the reference."""
        hashed = Fnv128()
        hashed.update(value)
        return self.add(hashed.digest(), bytes(value), author)

    def add(self, digest: bytes, value: bytes | Blob, author: Author = NO_AUTHOR) -> str:
        """Store contents whose hash is known, or keep those that are there; return the reference."""
        dataset = self._writable()
        with self._lock:
            known = self._find(dataset, digest)
            if known is None:
                put_document(dataset, 0, digest, value, author, {})
            else:
                _compare(dataset, digest, known, value)
        return reference_of(digest)

    def _find(self, dataset: Dataset, digest: bytes) -> Place | None:
        return dataset.documents.find(digest, self._versions.lineage(0))

    def get(self, digest: bytes) -> "tuple[int, Iterator[bytes]] | None":
        """Return (length, contents in pieces, checked as they come) for the hash of a reference, None if unknown."""
        dataset = self.dataset
        dataset.follow()
        place = self._find(dataset, digest)
        return None if place is None else (place.length, read_pieces(dataset, digest, place))

    def close(self) -> None:
        """Write the caches and close the files."""
        with self._lock:
            dataset, self._dataset = self._dataset, None
            if dataset is None:
                return
            try:
                if dataset.writable:
                    flush(dataset)
                    dataset.save_caches()
            finally:
                dataset.close()


@contextmanager
def _whole_or_closed(dataset: Dataset) -> "Iterator[None]":
    """Close a dataset that could not be opened, or made writable, with all that belongs to it."""
    try:
        yield
    except BaseException:
        dataset.close()
        raise


class ReferenceWriter:
    """Writes contents to the disk while they arrive."""

    def __init__(self, store: BlobStore, blob: BlobWriter) -> None:
        self._store = store
        self._blob = blob
        self._hash = Fnv128()

    def write(self, piece: bytes) -> None:
        """Append a piece."""
        self._hash.update(piece)
        self._blob.write(piece)

    def finish(self, author: Author = NO_AUTHOR) -> str:
        """Store what was written; return the reference."""
        return self._store.add(self._hash.digest(), self._blob.finish(), author)

    def close(self) -> None:
        """Remove what was not finished."""
        self._blob.close()


def reference_of(digest: bytes) -> str:
    """Return the reference of a hash: URL-safe base64, with padding."""
    return base64.urlsafe_b64encode(digest).decode()


def _compare(dataset: Dataset, digest: bytes, known: Place, value: bytes | Blob) -> None:
    """Keep the contents that are known; raise if others have the same hash."""
    if isinstance(value, Blob):
        fresh = Place(0, 0, VALUE, value.id.encode(), IN_BLOB, 0, value.length, value.checksum)
        same = known.length == value.length and known.checksum == value.checksum
        same = same and all(
            old == new
            for old, new in zip(
                read_pieces(dataset, digest, known), read_pieces(dataset, digest, fresh), strict=True
            )
        )
        remove_blob(dataset, value)
    else:
        same = b"".join(read_pieces(dataset, digest, known)) == value
    if not same:
        raise StorageError(f"other contents have the reference {reference_of(digest)} already")
