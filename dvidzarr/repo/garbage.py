"""Objects that no record names: leftovers of crashes and of values that were replaced. They are invisible.

Such an object may belong to a write that is under way: its record comes later. So only old ones are collected, and they
go into the trash, under the path that they had. The trash is purged on its own.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dvidzarr.core.errors import InvalidInputError, NotFoundError
from dvidzarr.storage.chunkkeys import unpack
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.durability import flush
from dvidzarr.storage.places import IN_BLOB
from dvidzarr.storage.runs import LENGTH, LOCATION, ORDINAL
from dvidzarr.storage.trash import FOLDER, Trash
from dvidzarr.storage.words import blob_key

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog

MIN_AGE_S = 3600.0
"""Younger objects may belong to a request that is still running."""
DEFAULT_AGE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Garbage:
    """What was found below one place; `kept` says why it stays where it is, "" if it is (or would be) moved."""

    place: str
    objects: int
    size: int
    kept: str = ""


def orphans(dataset: Dataset) -> list[str]:
    """Return the keys of all objects of an instance that no record names, sorted.

    What is present is listed first: whatever is recorded meanwhile counts as named.
    """
    backend = dataset.context.backend
    parts = ("versions", "rewrites", "blobs")
    present = [key for part in parts for key in backend.keys(f"{dataset.prefix}/{part}")]
    named = _named(dataset)
    return sorted(
        key
        for key in present
        if key not in named and not key.endswith("/zarr.json") and not dataset.packs.is_own(key)
    )


def _named(dataset: Dataset) -> set[str]:
    named = set()
    for store in dataset.arrays.values():
        run = store.postings.snapshot()
        for coord, row in zip(unpack(run.keys).tolist(), run.rows.tolist(), strict=True):
            named.add(store.part(row[ORDINAL], coord, row[LOCATION], row[LENGTH]).key)
            named.add(store.part(row[ORDINAL], coord, 0, row[LENGTH]).key)
    if dataset.caches.has_documents:
        places = (place for _, place in dataset.documents.all_rows() if place.segment == IN_BLOB)
        named |= {blob_key(dataset.prefix, place.blob_id) for place in places}
    return named


def collect(
    catalog: "Catalog", *, older_than_s: float = DEFAULT_AGE_S, dry_run: bool = True
) -> Iterator[Garbage]:
    """Move old objects that no record names into `trash/gc-<time>/`; yield what was found, by instance and reason.

    Parameters
    ----------
    older_than_s
        Age in seconds, at least `MIN_AGE_S`, from which on an object is collected.
    dry_run
        Only look. Else the writer lock is taken.
    """
    if older_than_s < MIN_AGE_S:
        raise InvalidInputError(
            f"objects younger than {MIN_AGE_S:.0f} s may belong to a running write: {older_than_s:.0f} s is too short"
        )
    if not dry_run:
        catalog.become_writer()
    trash = f"{FOLDER}/gc-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    for dataset in _datasets(catalog):
        yield from _collect(dataset, trash, time.time() - older_than_s, dry_run=dry_run)


def _datasets(catalog: "Catalog") -> Iterator[Dataset]:
    for repo in catalog.repos:
        for instance in repo.instances.values():
            with suppress(NotFoundError):  # deleted meanwhile, by another process
                yield instance.dataset
    if catalog.context.backend.folders("blobstore"):
        yield catalog.blobs.dataset


def _collect(dataset: Dataset, trash: str, before: float, *, dry_run: bool) -> Iterator[Garbage]:
    if dataset.log.damage:  # the records that are lost may have named them
        yield Garbage(dataset.prefix, 0, 0, "its log is damaged: nothing is collected until it is repaired")
        return
    if dataset.versions.incomplete:
        why = "records of the repo were given up: what they named is kept, should they be found in a copy"
        yield Garbage(dataset.prefix, 0, 0, why)
        return
    if not dry_run:
        flush(dataset)  # else a power loss could bring back what a record has superseded
    backend = dataset.context.backend
    found = Counter[str](), Counter[str]()
    for key in orphans(dataset):
        size, written = backend.size(key), backend.changed(key)
        if size is None or written is None:
            continue  # its grace period ended just now
        is_old = written < before * 1e9
        found[is_old].update(objects=1, size=size)
        if is_old and not dry_run:
            backend.promote(key, f"{trash}/{key}")
            backend.remove([key])
    for tally, kept in zip(found, ("too young", ""), strict=True):
        if tally["objects"]:
            yield Garbage(dataset.prefix, tally["objects"], tally["size"], kept)


def purge(catalog: "Catalog", *, older_than_s: float, dry_run: bool = True) -> Iterator[Garbage]:
    """Remove for good what was moved into the trash that long ago; yield what was found, by entry."""
    if not dry_run:
        catalog.become_writer()
    trash = Trash(catalog.context.backend)
    for entry in trash.entries():
        if trash.since(entry) > time.time() - older_than_s:
            continue
        objects, size = trash.measure(entry)
        if not dry_run:
            trash.purge(entry)
        yield Garbage(entry, objects, size)
