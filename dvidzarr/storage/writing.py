"""Mutations of an instance: immutable objects first, then one log record, which is the commit point. Design: storage §4.

The caller has passed the gates of the version and of the instance (see `repo.repo.Repo.writing`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from crc32c import crc32c

from dvidzarr.core.errors import BusyError, InvalidInputError, NoSpaceError, StorageError
from dvidzarr.core.geometry import ZYX
from dvidzarr.core.ids import Author
from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.backend import Part, RunAll
from dvidzarr.storage.blobs import write_blob
from dvidzarr.storage.chunkkeys import pack_one
from dvidzarr.storage.chunkrecords import Receipt, payload_of
from dvidzarr.storage.chunks import ChunkStore
from dvidzarr.storage.context import StoreContext
from dvidzarr.storage.dataset import Dataset, Draft
from dvidzarr.storage.durability import discard, is_fast, note_unflushed
from dvidzarr.storage.frames import Kind
from dvidzarr.storage.packs import Batch
from dvidzarr.storage.places import IN_BLOB, LOGGED, Place
from dvidzarr.storage.runs import FLAGS, LENGTH, LOCATION, TOMBSTONE, Row
from dvidzarr.storage.words import Blob, Value, batch_record, blob_key

if TYPE_CHECKING:
    import numpy as np

    from dvidzarr.storage.codecs import Encoded

PIECE = 1 << 20
"""Large values are read in pieces of this many bytes."""

_REST_S = 1.0

ChunkOf = Callable[[int], "np.ndarray | Encoded | None"]
"""Gives the i-th chunk of a write: an array, encoded bytes, or None for a deletion. Called under the chunks' locks."""


@dataclass(frozen=True, slots=True)
class ChunkWrite:
    """What one request writes: distinct chunks (z, y, x) of one array."""

    coords: Sequence[ZYX]
    chunk_of: ChunkOf
    author: Author
    header: dict[str, Any]


def write_chunks(
    dataset: Dataset,
    store: ChunkStore,
    version: int,
    coords: Sequence[ZYX],
    chunk_of: ChunkOf,
    *,
    author: Author,
    header: dict[str, Any],
    run_all: RunAll,
) -> None:
    """Write distinct chunks of one array into a version, as one request. Raises as `write_together`."""
    write_together(dataset, store, version, [ChunkWrite(coords, chunk_of, author, header)], run_all)


def write_together(
    dataset: Dataset, store: ChunkStore, version: int, writes: Sequence[ChunkWrite], run_all: RunAll
) -> None:
    """Write what several requests want into one array of a version, in order, one record each, at the price of one.

    All of a request becomes visible, or nothing; of all requests too, if they fail.

    Raises
    ------
    NoSpaceError
        The disk is full: the objects are gone again, nothing was changed.
    StorageError
        An object or the log could not be made durable: nothing was acknowledged.
    """
    coords, chunk_of = _joined(writes)
    with (
        dataset.stripes.hold((store.scale, pack_one(coord)) for coord in coords),
        dataset.packs.batch(store.rewrites(version)) as batch,
    ):
        before = store.own(version, coords)
        created = _create_objects(dataset, store, version, coords, chunk_of, before, batch, run_all)
        try:
            dataset.append_all(_records(writes, created, store.scale, version))
        except (NoSpaceError, BusyError, InvalidInputError):
            # surely not recorded; after other failures the objects are left for gc
            discard(dataset, [receipt.part for receipt in created if receipt.part])
            raise
    written = zip(coords, before, strict=True)
    superseded = [
        store.part(version, at, row[LOCATION], row[LENGTH]) for at, row in written if row and not row[FLAGS]
    ]
    if superseded or not batch.is_empty:
        _rest_later(dataset.context, [] if is_fast(dataset) else superseded)


def _records(
    writes: Sequence[ChunkWrite], created: Iterable[Receipt], scale: int, version: int
) -> list[Draft]:
    """Return a record per request, given the receipts of the chunks of all."""
    receipts = iter(created)
    return [
        (
            Kind.CHUNKS,
            version,
            write.author,
            {**write.header, "s": scale},
            payload_of(list(islice(receipts, len(write.coords)))),
        )
        for write in writes
    ]


def _joined(writes: Sequence[ChunkWrite]) -> tuple[Sequence[ZYX], ChunkOf]:
    """Return the chunks of all requests as if they were those of one."""
    if len(writes) == 1:
        return writes[0].coords, writes[0].chunk_of
    places = [(write, index) for write in writes for index in range(len(write.coords))]

    def chunk_of(number: int) -> "np.ndarray | Encoded | None":
        write, index = places[number]
        return write.chunk_of(index)

    return [write.coords[index] for write, index in places], chunk_of


def _rest_later(context: StoreContext, superseded: list[Part]) -> None:
    """Have the page cache drop superseded pieces soon (what is not on the disk yet cannot leave it)."""
    context.open_packs.supersede(superseded)
    context.housekeeper.schedule(_REST_S, "packs", lambda: _rest(context), at_close=False)


def _rest(context: StoreContext) -> None:
    """Do at once for many requests what each would lose time with."""
    context.backend.forget(context.open_packs.take_superseded())
    if context.open_packs.close_idle():
        _rest_later(context, [])


def _create_objects(
    dataset: Dataset,
    store: ChunkStore,
    version: int,
    coords: Sequence[ZYX],
    chunk_of: ChunkOf,
    before: Sequence[Row | None],
    batch: Batch,
    run_all: RunAll,
) -> list[Receipt]:
    """Store the chunks of a request, durably unless durability is `fast`; when that fails, none is left."""
    backend = dataset.context.backend
    durable = not is_fast(dataset)
    done: list[Part] = []

    def write(index: int) -> Receipt:
        chunk = chunk_of(index)
        if chunk is None:
            return Receipt(coords[index], 0, 0, 0, TOMBSTONE, None)
        again = before[index] is not None
        receipt = store.write_object(version, coords[index], chunk, batch, again=again, durable=durable)
        if receipt.part:
            done.append(receipt.part)
        return receipt

    try:
        receipts = run_all(write, len(coords))
        if durable:
            batch.sync()
            objects = [part.key for part in done if not part.length]
            backend.sync(objects, contents=True, run_all=dataset.context.run_all)
        else:
            note_unflushed(dataset, {part.key for part in done})
    except BaseException:
        backend.discard(done)
        raise
    return receipts


def put_document(
    dataset: Dataset, version: int, key: bytes, value: bytes | Blob, author: Author, header: dict[str, Any]
) -> None:
    """Write a document into a version: inline in the record, or above 64 KiB as a blob that the record names."""
    put_documents(dataset, version, [(key, value, author, header)])


def put_documents(
    dataset: Dataset, version: int, puts: Sequence[tuple[bytes, Value, Author, dict[str, Any]]]
) -> None:
    """Write the documents of several requests, one record each, at the price of one append. None deletes."""
    with dataset.stripes.hold(key for key, *_ in puts):
        records = []
        for key, given, author, header in puts:
            value = _stored(dataset, given)
            about = {**header, "k": len(key)}
            if value is None:
                records.append((Kind.DELETE, version, author, about, key))
            elif isinstance(value, Blob):
                about |= {"c": value.checksum, "blob": value.id, "n": value.length}
                records.append((Kind.PUT, version, author, about, key))
            else:
                about["c"] = crc32c(value)
                records.append((Kind.PUT, version, author, about, b"".join((key, value))))
        dataset.append_all(records)


def write_documents(
    dataset: Dataset,
    version: int,
    writes: Sequence[tuple[bytes, Value]],
    author: Author,
    header: dict[str, Any],
) -> None:
    """Write (None deletes) several documents as one request: all of it becomes visible, or nothing."""
    with dataset.stripes.hold(key for key, _ in writes):
        stored = [(key, _stored(dataset, value)) for key, value in writes]
        about, payload = batch_record(stored)
        dataset.append(Kind.BATCH, version, author, {**header, **about}, payload)


def _stored(dataset: Dataset, value: Value) -> Value:
    """Put a large value into a blob; if the record that shall name it never comes, the blob is left for gc."""
    large = isinstance(value, bytes | memoryview) and len(value) > LOGGED
    return write_blob(dataset, value) if large else value  # type: ignore[arg-type]


def delete_document(
    dataset: Dataset, version: int, key: bytes, author: Author, header: dict[str, Any]
) -> None:
    """Delete a document in a version; ancestors keep theirs."""
    put_documents(dataset, version, [(key, None, author, header)])


def get_document(dataset: Dataset, key: bytes, lineage: Lineage) -> bytes | None:
    """Return the value of a key as a lineage sees it, None if there is none."""
    place = dataset.documents.find(key, lineage)
    return None if place is None else read_place(dataset, key, place)


def read_place(dataset: Dataset, key: bytes, place: Place) -> bytes:
    """Return the value that lies at a place; raise `Dataset.failure` if it is not the one recorded."""
    if place.segment == IN_BLOB:
        value = dataset.context.backend.get(blob_key(dataset.prefix, place.blob_id))
        if value is None:
            raise dataset.failure(place.sequence, f"the value of {key!r} is missing on the store")
    elif place.value is not None:
        value = place.value
    else:
        value = _in_log(dataset, place)
    if len(value) != place.length or crc32c(value) != place.checksum:
        raise dataset.failure(
            place.sequence,
            f"the value of {key!r} is not the one recorded ({len(value)} of {place.length} bytes)",
        )
    return value


def _in_log(dataset: Dataset, place: Place) -> bytes:
    try:
        return dataset.log.value(place.segment, place.start, place.length)
    except StorageError:
        dataset.check_exists()
        raise


def read_slice(dataset: Dataset, key: bytes, place: Place, start: int, stop: int) -> bytes:
    """Return the bytes [start, stop) of a value; of one in a blob only these are read, so they are not checked."""
    if place.segment != IN_BLOB:
        return read_place(dataset, key, place)[start:stop]
    name = blob_key(dataset.prefix, place.blob_id)
    try:
        return dataset.context.backend.read_at(name, start, stop - start)
    except StorageError as error:
        failure = dataset.failure(place.sequence, f"the value of {key!r}: {error}")
        if isinstance(failure, BusyError):
            raise failure from error
        raise


def read_pieces(dataset: Dataset, key: bytes, place: Place) -> Iterator[bytes]:
    """Yield a value in pieces of `PIECE` bytes; raise before the last one if it is not the value recorded."""
    if place.length <= PIECE:
        yield read_place(dataset, key, place)
        return
    checksum = 0
    for start in range(0, place.length, PIECE):
        piece = read_slice(dataset, key, place, start, min(start + PIECE, place.length))
        checksum = crc32c(piece, checksum)
        if start + PIECE >= place.length and checksum != place.checksum:
            raise dataset.failure(place.sequence, f"the value of {key!r} is not the one recorded")
        yield piece
