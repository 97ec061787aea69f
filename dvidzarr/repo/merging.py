"""Conflicts between versions that are to be merged: found, counted, and resolved by deleting the losers.

A conflict is a chunk or key for which several parents show values that none of the others supersedes; a merge version
reads it as absent. Resolving gives each parent that loses a child in which those values are deleted, and merges the
children instead (spec-server §4.4, `resolve`; a value inherited by the first parent and changed only in a later one is
no conflict here, DVID's deletion of it is a bug).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dvidzarr.core.ids import Author
from dvidzarr.storage.backend import in_turn
from dvidzarr.storage.chunkkeys import unpack
from dvidzarr.storage.merging import CONFLICTING
from dvidzarr.storage.writing import delete_document, write_chunks

if TYPE_CHECKING:
    from dvidzarr.core.geometry import ZYX
    from dvidzarr.repo.dag import Version
    from dvidzarr.repo.instance import Instance
    from dvidzarr.repo.repo import Repo


PLACES = 1000
"""How many places of conflicts a report names."""

Groups = tuple[tuple[int, ...], ...]
"""Indices of parents that show values in conflict: one group per value, in the order of their first parents."""


@dataclass(frozen=True, slots=True)
class Conflicts:
    """What a merge of some parents would leave in conflict in one instance.

    Attributes
    ----------
    chunks : (scale, chunk coordinate (z, y, x), who shows which value), in order of scale, z, y, x
    keys : (key, who shows which value), in order of the keys
    """

    instance: str
    chunks: tuple[tuple[int, "ZYX", Groups], ...]
    keys: tuple[tuple[bytes, Groups], ...]

    def __bool__(self) -> bool:
        return bool(self.chunks or self.keys)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON: all of it counted, at most `PLACES` blocks (x, y, z) and keys named."""
        blocks = [
            {"Scale": scale, "Block": list(coord[::-1]), "Parents": groups}
            for scale, coord, groups in self.chunks[:PLACES]
        ]
        keys = [
            {"Key": key.decode("utf-8", "replace"), "Parents": groups} for key, groups in self.keys[:PLACES]
        ]
        return {"BlockCount": len(self.chunks), "Blocks": blocks, "KeyCount": len(self.keys), "Keys": keys}


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
        groups = _groups(rows["origin"][:, disputed], store.rivals(rows[:, disputed]))
        coords = unpack(keys[disputed]).tolist()
        chunks += [(scale, (z, y, x), each) for (z, y, x), each in zip(coords, groups, strict=True)]
    return Conflicts(instance.name, tuple(chunks), tuple(_keys(instance, ordinals)))


def _keys(instance: "Instance", ordinals: Sequence[int]) -> list[tuple[bytes, Groups]]:
    if instance.unites or not instance.dataset.caches.has_documents:
        return []
    documents = instance.dataset.documents
    keys, seen, winners = documents.contest(ordinals)
    disputed = [index for index, winner in enumerate(winners) if winner == CONFLICTING]
    shown = [[places[index] for index in disputed] for places in seen]
    origins = np.array([[-1 if place is None else place.ordinal for place in row] for row in shown])
    groups = _groups(origins.reshape(len(shown), len(disputed)), documents.rivals(shown))
    return [(keys[index], each) for index, each in zip(disputed, groups, strict=True)]


def _groups(origins: np.ndarray, rivals: np.ndarray) -> list[Groups]:
    """Return, per column, the rival parents by the version that wrote what they show."""
    found = []
    for column in range(origins.shape[1]):
        by_origin: dict[int, list[int]] = {}
        for parent in rivals[:, column].nonzero()[0].tolist():
            by_origin.setdefault(int(origins[parent, column]), []).append(parent)
        found.append(tuple(map(tuple, by_origin.values())))
    return found


def _loses(parent: int, groups: Groups) -> bool:
    """Tell whether what a parent shows gives way to what the first one shows."""
    return any(parent in group for group in groups[1:])


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
                [chunk for chunk in each.chunks if _loses(number, chunk[2])],
                [key for key, groups in each.keys if _loses(number, groups)],
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
    chunks: "Sequence[tuple[int, ZYX, Groups]]",
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
                    run_all=in_turn,
                )
        for key in keys:
            delete_document(dataset, version.ordinal, key, author, {})
