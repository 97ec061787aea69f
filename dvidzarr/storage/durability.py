"""Durability `fast`: acknowledged before it is on the disk, flushed every few seconds and at each commit of a version.

A flush syncs the objects written so far, then the log, then a `checkpoint` record that says up to which record the
objects are safe. After a power loss the first bad frame behind the last checkpoint ends the log, and requests whose
objects are not whole are named by a `void` record before anything is served. Design: storage §4.
"""

import logging
from collections.abc import Iterable, Sequence

from crc32c import crc32c

from dvidzarr.core.errors import StorageError
from dvidzarr.core.ids import NO_AUTHOR
from dvidzarr.storage.backend import Part
from dvidzarr.storage.chunkkeys import unpack_one
from dvidzarr.storage.chunkrecords import row_tuples_of
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.frames import Entry, Kind
from dvidzarr.storage.runs import FLAGS, LENGTH, LOCATION
from dvidzarr.storage.words import DOCUMENT_KINDS, blob_key, words_of

_logger = logging.getLogger("dvidzarr.storage")


def is_fast(dataset: Dataset) -> bool:
    """Tell whether the dataset acknowledges before syncing."""
    return dataset.context.settings.storage.durability == "fast"


def begin(dataset: Dataset) -> None:
    """Prepare a dataset that was just opened for writing: drop what a power loss left half, set the mode."""
    if dataset.log.damage:
        return
    if dataset.log.unflushed_after is not None:
        _void_incomplete(dataset)
        _sync_unflushed(dataset)
    if is_fast(dataset) or dataset.log.unflushed_after is not None:
        _checkpoint(dataset, dataset.log.tail.sequence)  # durable before anything is acknowledged that is not
    dataset.log.durable = not is_fast(dataset)
    dataset.flush_soon = lambda: note_unflushed(dataset, ())


def note_unflushed(dataset: Dataset, keys: Iterable[str]) -> None:
    """Remember objects that are not synced yet, and flush soon."""
    dataset.unflushed.extend(keys)
    interval = dataset.context.settings.storage.flush_interval_s
    dataset.context.housekeeper.schedule(
        interval, ("flush", dataset.data_id), lambda: flush(dataset), at_close=False, prompt=True
    )


def discard(dataset: Dataset, parts: Sequence[Part]) -> None:
    """Remove objects, but not those of which a flush on another thread has just found that they are there."""
    with dataset.flushing:
        dataset.context.backend.discard(parts)


def flush(dataset: Dataset) -> None:
    """Make everything acknowledged so far durable; nothing to do with durability `full`."""
    if not is_fast(dataset) or not dataset.writable or dataset.log.damage:
        return
    backend = dataset.context.backend
    with dataset.flushing:
        upto = dataset.log.tail.sequence
        keys = {dataset.unflushed.popleft() for _ in range(len(dataset.unflushed))}
        try:
            present = [key for key in keys if backend.size(key) is not None]  # superseded ones may be gone
            backend.sync(present, contents=True, run_all=dataset.context.run_all)
        except StorageError as error:  # a second try would succeed without anything being on the disk
            dataset.unflushed.extend(keys)
            dataset.log.refuse(f"what was acknowledged could not be synced: {error}")
            raise
        if upto > dataset.flushed:
            _checkpoint(dataset, upto)


def _checkpoint(dataset: Dataset, upto: int) -> None:
    dataset.log.flush()
    mode = "fast" if is_fast(dataset) else "full"
    dataset.append(Kind.CHECKPOINT, None, NO_AUTHOR, {"mode": mode, "upto": upto})
    dataset.log.flush()


def _void_incomplete(dataset: Dataset) -> None:
    torn = [
        entry.sequence
        for entry in dataset.log.records(after=dataset.flushed)
        if entry.sequence not in dataset.voided and not _is_whole(dataset, entry)
    ]
    if torn:
        _logger.warning(
            "%s: records %s were acknowledged but not flushed; their requests are void", dataset.prefix, torn
        )
        dataset.append(Kind.VOID, None, NO_AUTHOR, {"sequences": torn})


def _sync_unflushed(dataset: Dataset) -> None:
    """Sync what a killed process left to the operating system, before a checkpoint vouches for it."""
    recent = dataset.log.records(after=dataset.flushed)
    names = {name for entry in recent for name in _objects(dataset, entry)}
    backend = dataset.context.backend
    present = [name for name in names if backend.size(name) is not None]
    backend.sync(present, contents=True, run_all=dataset.context.run_all)


def _objects(dataset: Dataset, entry: Entry) -> list[str]:
    """Return the keys of the objects that a record names."""
    if entry.kind in DOCUMENT_KINDS:
        return [blob_key(dataset.prefix, word.blob) for word in words_of(entry) if word.blob is not None]
    ordinal = dataset.versions.ordinal_of(entry.header["v"]) if entry.kind == Kind.CHUNKS else None
    if ordinal is None:
        return []
    store = dataset.arrays[entry.header["s"]]
    rows = row_tuples_of(entry.payload, ordinal, entry.sequence)
    return [
        store.part(ordinal, unpack_one(key), row[LOCATION], row[LENGTH]).key
        for key, row in rows
        if not row[FLAGS]
    ]


def _is_whole(dataset: Dataset, entry: Entry) -> bool:
    """Tell whether the objects that a record names are on the disk, with the recorded contents."""
    if entry.kind in DOCUMENT_KINDS:
        blobs = ((word.blob, word.checksum) for word in words_of(entry) if word.blob is not None)
        return all(_has_blob(dataset, blob_key(dataset.prefix, blob), checksum) for blob, checksum in blobs)
    if entry.kind != Kind.CHUNKS:
        return True
    store = dataset.arrays[entry.header["s"]]
    ordinal = dataset.versions.ordinal_of(entry.header["v"])
    rows = row_tuples_of(entry.payload, -1 if ordinal is None else ordinal, entry.sequence)
    return all(row[FLAGS] or store.problem(key, row) is None for key, row in rows)


def _has_blob(dataset: Dataset, key: str, checksum: int) -> bool:
    value = dataset.context.backend.get(key)
    return value is not None and crc32c(value) == checksum
