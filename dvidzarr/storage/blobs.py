"""Values too large for the log: one object each, written while they arrive, before the record that names them."""

from typing import Self

from crc32c import crc32c

from dvidzarr.core.ids import new_id
from dvidzarr.storage.backend import Part
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.durability import discard, is_fast, note_unflushed
from dvidzarr.storage.words import Blob, blob_key


class BlobWriter:
    """Writes one blob piece by piece. A blob that was not finished when the context ends is removed again."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._id = new_id()
        self._key = blob_key(dataset.prefix, self._id)
        self._file = dataset.context.backend.open_append(self._key, create=True)
        self._length = 0
        self._checksum = 0
        self._finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, piece: bytes | memoryview) -> None:
        """Append a piece."""
        self._file.write_at(self._length, piece)
        self._length += len(piece)
        self._checksum = crc32c(piece, self._checksum)

    def finish(self) -> Blob:
        """Make the blob durable and return what a record needs to name it."""
        backend = self._dataset.context.backend
        if is_fast(self._dataset):
            note_unflushed(self._dataset, [self._key])
        else:
            self._file.sync()
            backend.sync([self._key])
        self._finished = True
        return Blob(self._id, self._length, self._checksum)

    def close(self) -> None:
        """Close the file; what was not finished is removed."""
        self._file.close()
        if not self._finished:
            self._dataset.context.backend.remove([self._key])


def write_blob(dataset: Dataset, value: bytes | memoryview) -> Blob:
    """Write a whole value as a blob."""
    with BlobWriter(dataset) as writer:
        writer.write(value)
        return writer.finish()


def remove_blob(dataset: Dataset, blob: Blob) -> None:
    """Remove a blob that surely no record names."""
    discard(dataset, [Part(blob_key(dataset.prefix, blob.id))])
