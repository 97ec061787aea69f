"""Conflicts between versions that are to be merged: found, counted, and resolved by deleting the losers.

A conflict is a chunk or key for which several parents show values that none of the others supersedes; a merge version
reads it as absent. Resolving gives each parent that loses a child in which those values are deleted, and merges the
children instead (spec-server §4.4, `resolve`; a value inherited by the first parent and changed only in a later one is
no conflict here, DVID's deletion of it is a bug).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvidzarr.core.ids import Author
from dvidzarr.storage.documents import DELETED
from dvidzarr.storage.merging import CONFLICTING
from dvidzarr.storage.postings import present, unpack
from dvidzarr.storage.writing import delete_document, write_chunks

if TYPE_CHECKING:
    from dvidzarr.core.geometry import ZYX
    from dvidzarr.repo.dag import Version
    from dvidzarr.repo.instance import Instance
    from dvidzarr.repo.repo import Repo


@dataclass(frozen=True, slots=True)
class Conflicts:
    """What a merge of some parents would leave in conflict in one instance.

    Attributes
    ----------
    chunks : (scale, chunk coordinate (z, y, x), indices of the parents that show a value), in order of scale, z, y, x
    keys : (key, indices of the parents that show a value), in order of the keys
    """

    instance: str
    chunks: tuple[tuple[int, "ZYX", tuple[int, ...]], ...]
    keys: tuple[tuple[bytes, tuple[int, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.chunks or self.keys)


def conflicts(instance: "Instance", parents: "Sequence[Version]") -> Conflicts:
    """Return the conflicts that a merge of these versions would have; its cost follows what they changed."""
    if not instance.versioned:
        return Conflicts(instance.name, (), ())
    ordinals = [version.ordinal for version in parents]
    dataset = instance.dataset
    chunks = []
    for scale, store in sorted(dataset.arrays.items()):
        for ordinal in ordinals:
            store.derive(ordinal)
        keys, rows, winner = store.contest(ordinals)
        disputed = winner == CONFLICTING
        there = present(rows[:, disputed])
        for index, coord in enumerate(unpack(keys[disputed]).tolist()):
            chunks.append((scale, tuple(coord), tuple(there[:, index].nonzero()[0].tolist())))
    return Conflicts(instance.name, tuple(chunks), tuple(_keys(instance, ordinals)))


def _keys(instance: "Instance", ordinals: Sequence[int]) -> list[tuple[bytes, tuple[int, ...]]]:
    if instance.unites or not instance.dataset.caches.has_documents:
        return []
    found = []
    keys, seen, winners = instance.dataset.documents.contest(ordinals)
    for index, (key, winner) in enumerate(zip(keys, winners, strict=True)):
        if winner == CONFLICTING:
            places = [row[index] for row in seen]
            holders = tuple(
                n for n, place in enumerate(places) if place is not None and place.state != DELETED
            )
            found.append((key, holders))
    return found


def resolve(
    repo: "Repo", parents: "Sequence[Version]", instances: "Sequence[Instance]", note: str, author: Author
) -> "Version":
    """Merge versions after deleting, in all but the first parent that has it, what they conflict in. Returns the merge."""
    found = [conflicts(instance, parents) for instance in instances]
    merged = []
    for number, parent in enumerate(parents):
        losing = [
            (
                instance,
                [chunk for chunk in each.chunks if number in chunk[2][1:]],
                [key for key, holders in each.keys if number in holders[1:]],
            )
            for instance, each in zip(instances, found, strict=True)
        ]
        if not any(chunks or keys for _, chunks, keys in losing):
            merged.append(parent)
            continue
        words = "Version for deleting conflicts before merge"
        child = repo.branch(parent, f"conflict-{parent.uuid}", words, author=author)
        for instance, chunks, keys in losing:
            _delete(instance, child, chunks, keys, author)
        merged.append(repo.commit(child, author=author))
    return repo.merge(merged, note, author)


def _delete(
    instance: "Instance",
    version: "Version",
    chunks: "Sequence[tuple[int, ZYX, tuple[int, ...]]]",
    keys: Sequence[bytes],
    author: Author,
) -> None:
    view = instance.at(version)
    with view.writing() as dataset:
        for scale, store in dataset.arrays.items():
            coords = [coord for at, coord, _ in chunks if at == scale]
            if coords:
                write_chunks(
                    dataset,
                    store,
                    version.ordinal,
                    coords,
                    lambda _: None,
                    author=author,
                    header={},
                    run_all=lambda work, count: [work(index) for index in range(count)],
                )
        for key in keys:
            delete_document(dataset, version.ordinal, key, author, {})
