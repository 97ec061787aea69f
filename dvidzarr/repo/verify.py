"""Checking a store: logs, lengths of chunks, Zarr metadata, or (`deep`) every checksum and cache; and mending what can be.

Damage in a log is mended only by accepting the loss of the damaged records (see `storage.repair`); a cache that is wrong
is dropped, to be made anew from the log. Damaged chunks and values cannot be mended here: restore them from a copy.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

import numpy as np

from dvidzarr.core.errors import BusyError, DvidzarrError, NotFoundError, StorageError
from dvidzarr.repo.garbage import orphans
from dvidzarr.storage.backend import Part
from dvidzarr.storage.chunkkeys import unpack_one
from dvidzarr.storage.chunks import ChunkStore
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.locks import WriterLock
from dvidzarr.storage.places import DELETED
from dvidzarr.storage.postings import Postings
from dvidzarr.storage.repair import close_gap, gaps
from dvidzarr.storage.runs import FLAGS, LENGTH, LOCATION, ORDINAL, SEQUENCE, Row, Run
from dvidzarr.storage.writing import read_place

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog
    from dvidzarr.repo.instance import Instance


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that `verify` noticed. `severity`: "error", "warning" or "note"."""

    severity: str
    place: str
    message: str
    repaired: bool = False


def verify(catalog: "Catalog", *, deep: bool = False, repair: bool = False) -> Iterator[Finding]:
    """Yield what is wrong or worth knowing.

    Parameters
    ----------
    deep
        Read and decode every chunk and value, and compare the caches with the logs; else only the logs are read, and
        the lengths of chunks compared.
    repair
        Close gaps in logs by giving up the damaged records; with `deep` drop wrong caches, too. Takes the writer lock.

    Yields
    ------
    Finding
        Errors, warnings and notes, in the order of the folders; what was mended has `repaired`.

    Raises
    ------
    StorageError
        `repair`, and the catalog writes already.
    BusyError
        `repair`, and another process writes.
    ForbiddenError
        `repair`, and the catalog was opened for reading only.
    """
    if repair:
        yield from _repair_logs(catalog)
    for repo_id, problem in catalog.broken.items():
        yield Finding("error", f"repos/{repo_id}", problem)
    if not repair:
        yield from _log_findings(catalog)
    for repo in catalog.repos:
        yield Finding(
            "note",
            repo.prefix,
            f"repo {repo.root}: {len(repo.dag)} versions, {len(repo.instances)} instances",
        )
        for sequence, version in repo.state.lost:
            needs = f"record {sequence} of its log needs version {version}, which was given up"
            yield Finding("warning", repo.prefix, f"{needs}: it is lost too")
        for instance in repo.instances.values():
            yield from _unless_deleted(instance, _whole_instance(instance, deep=deep, repair=repair))
    if catalog.context.backend.folders("blobstore"):
        yield from _blobs(catalog, deep=deep)


def _blobs(catalog: "Catalog", *, deep: bool) -> Iterator[Finding]:
    try:
        dataset = catalog.blobs.dataset
        yield from _documents(dataset, deep=deep)
        yield from _orphans(dataset)
    except DvidzarrError as error:
        yield Finding("error", "blobstore", str(error))


def _log_findings(catalog: "Catalog") -> Iterator[Finding]:
    for prefix, sealed in _logs(catalog).items():
        found = list(_gaps(catalog, prefix, sealed))
        if found and prefix in _logs(catalog):  # else it was deleted meanwhile
            yield from found


def _gaps(catalog: "Catalog", prefix: str, sealed: int) -> Iterator[Finding]:
    try:
        for gap in gaps(catalog.context.backend, prefix, sealed):
            yield Finding("note" if gap.is_torn_tail else "error", prefix, str(gap))
    except StorageError as error:  # such as a link in its place: the others are looked at all the same
        yield Finding("error", prefix, str(error))


def _logs(catalog: "Catalog") -> dict[str, int]:
    """Return the folders of all logs, those that should be there too, and up to which record commits vouch for them."""
    backend, found = catalog.context.backend, dict[str, int]()
    for repo_id in backend.folders("repos"):
        found[f"repos/{repo_id}/log"] = 0
        for data_id in backend.folders(f"repos/{repo_id}/data"):
            found[f"repos/{repo_id}/data/{data_id}/log"] = 0
    for data_id in backend.folders("blobstore"):
        found[f"blobstore/{data_id}/log"] = 0
    instances = (instance for repo in catalog.repos for instance in repo.instances.values())
    return found | {f"{each.prefix}/log": each.sealed_upto for each in instances}


def _repair_logs(catalog: "Catalog") -> Iterator[Finding]:
    """Close the gaps of all logs while nothing has them open."""
    if catalog.writing:
        raise StorageError(
            "repair needs the store for itself: open it anew, and call verify(repair=True) first"
        )
    context, logs = catalog.context, _logs(catalog)
    with catalog.exclusively():
        for prefix, sealed in logs.items():
            log_id = prefix.split("/")[-2]
            while (gap := next(iter(gaps(context.backend, prefix, sealed)), None)) is not None:
                if not gap.is_torn_tail:
                    rmtree(context.cache_dir / log_id, ignore_errors=True)  # may hold what is given up now
                close_gap(context.backend, gap, (context.store_id, log_id))
                yield Finding("note" if gap.is_torn_tail else "error", prefix, str(gap), repaired=True)
    catalog.become_writer()


def _unless_deleted(instance: "Instance", findings: Iterator[Finding]) -> Iterator[Finding]:
    """Pass on what was found, up to the moment when a writer deletes the instance."""
    for finding in findings:
        if finding.severity != "note":
            try:
                instance.check_exists()
            except NotFoundError:
                return
            except DvidzarrError:  # of another repo
                pass
        yield finding


def _whole_instance(instance: "Instance", *, deep: bool, repair: bool) -> Iterator[Finding]:
    try:
        yield from _instance(instance, deep=deep, repair=repair)
    except DvidzarrError as error:
        yield Finding("error", instance.prefix, str(error))


def _instance(instance: "Instance", *, deep: bool, repair: bool) -> Iterator[Finding]:
    dataset = instance.dataset
    if repair:  # if the record is lost that a version was finished, finishing it again finds its chunks
        dataset.context.housekeeper.settle()
    if dataset.log.damage:
        yield Finding("error", instance.prefix, "takes no writes: see the findings of its log")
    for store in dataset.arrays.values():
        yield from _chunks(instance, dataset, store, deep=deep)
    yield from _documents(dataset, deep=deep)
    yield from _orphans(dataset)
    if dataset.log.damage:
        return
    if deep:
        yield from _caches(instance, dataset, repair=repair)
    yield from _derived_files(instance)


def _derived_files(instance: "Instance") -> Iterator[Finding]:
    """Compare what follows from the log; while somebody writes it may follow a little later."""
    backend = instance.dataset.context.backend
    severity = "warning" if WriterLock.is_at_rest(f"{backend.root}/lock") else "note"
    for key, content in instance.derived_files().items():
        found = backend.get(key)
        if found != content:
            state = "is missing" if found is None else "differs from what the log says"
            cure = "who writes makes it anew when it opens the instance"
            yield Finding(severity, key, f"the metadata for Zarr readers {state}: {cure}")


def _chunks(instance: "Instance", dataset: Dataset, store: ChunkStore, *, deep: bool) -> Iterator[Finding]:
    run = store.postings.snapshot()
    for key, row in zip(run.keys.tolist(), run.rows.tolist(), strict=True):
        found = _wrong_chunk(dataset, store, key, row, deep=deep)
        if found is not None:
            wrong, problem = found
            part = store.part(wrong[ORDINAL], unpack_one(key), wrong[LOCATION], wrong[LENGTH])
            message = f"{instance.name}, chunk {unpack_one(key)} (z, y, x): {problem}"
            yield _lost(part.key, dataset.failure(wrong[SEQUENCE], message))


def _wrong_chunk(
    dataset: Dataset, store: ChunkStore, key: int, row: Row, *, deep: bool
) -> tuple[Row, str] | None:
    """Return what is wrong with a chunk version; one that was moved or written again meanwhile is looked at anew."""
    while not row[FLAGS]:
        part = store.part(row[ORDINAL], unpack_one(key), row[LOCATION], row[LENGTH])
        size = None if deep else dataset.context.backend.size(part.key)
        problem = store.problem(key, row) if deep else _wrong_size(size, part, row[LENGTH])
        if problem is None:
            return None
        store.refresh()
        (now,) = store.own(row[ORDINAL], [unpack_one(key)])
        if now is None or now == row:
            return row, problem
        row = now
    return None


def _wrong_size(size: int | None, part: Part, length: int) -> str | None:
    if part.length:
        short = size is None or size < part.offset + length
        return f"the pack has {size} bytes, {part.offset + length} are needed" if short else None
    return None if size == length else f"the object has {size} bytes, {length} are recorded"


def _documents(dataset: Dataset, *, deep: bool) -> Iterator[Finding]:
    if not deep or not dataset.caches.has_documents:
        return
    for key, place in dataset.documents.all_rows():
        if place.state == DELETED:
            continue
        try:
            read_place(dataset, key, place)
        except (StorageError, BusyError) as error:
            yield _lost(f"{dataset.prefix} key {key!r}", error)


def _lost(place: str, error: DvidzarrError) -> Finding:
    """Tell damage from what a writer drops when it recovers the store after a power loss."""
    return Finding("warning" if isinstance(error, BusyError) else "error", place, str(error))


def _orphans(dataset: Dataset) -> Iterator[Finding]:
    """Leftovers of crashes, and what waits for its grace period."""
    found = orphans(dataset)
    if found:
        yield Finding(
            "note", dataset.prefix, f"{len(found)} objects that no record names, such as {found[0]}"
        )


def _caches(instance: "Instance", dataset: Dataset, *, repair: bool) -> Iterator[Finding]:
    """Replay the log into a second dataset without caches and compare."""
    with tempfile.TemporaryDirectory() as folder:
        context = replace(dataset.context, cache_dir=Path(folder))
        fresh_instance = instance.blank()
        fresh = Dataset(context, dataset.prefix, dataset.data_id, dataset.versions, fresh_instance)
        fresh_instance.declare(fresh)
        fresh.open(writable=False)
        same = all(
            _same(store.postings, fresh.arrays[scale].postings) for scale, store in dataset.arrays.items()
        )
        if not same and dataset.log.tail == fresh.log.tail:
            if repair:
                instance.close()  # else what is in memory would be saved again
                dataset.caches.drop()
            yield Finding(
                "error", instance.prefix, "the cache of postings differs from the log", repaired=repair
            )
        fresh.close()


def _same(one: Postings, other: Postings) -> bool:
    have, want = (Run.build(run.keys, run.rows) for run in (one.snapshot(), other.snapshot()))
    return np.array_equal(have.keys, want.keys) and np.array_equal(have.rows, want.rows)
