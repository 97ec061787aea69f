"""Conflicts between versions that are to be merged: found, counted, and resolved by deleting the losers.

A conflict is a chunk or key for which several parents show values that none of the others supersedes, or one of them a
conflict; a merge version reads it as absent. Resolving gives each parent that loses a child in which those values are
deleted, and merges the children instead (spec-server §4.4, `resolve`; a value inherited by the first parent and changed
only in a later one is no conflict here, DVID's deletion of it is a bug).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.ids import Author
from dvidzarr.core.texts import check_list
from dvidzarr.storage.backend import in_turn
from dvidzarr.storage.chunkkeys import unpack_one
from dvidzarr.storage.merging import Groups
from dvidzarr.storage.writing import delete_document, write_chunks
from dvidzarr.wire.gotext import utf8_text

if TYPE_CHECKING:
    from dvidzarr.core.geometry import ZYX
    from dvidzarr.repo.dag import Ref, Version, VersionDAG
    from dvidzarr.repo.instance import Instance
    from dvidzarr.repo.repo import Repo


PLACES = 1000
"""How many places of conflicts a report names."""


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
        keys = [{"Key": utf8_text(key), "Parents": groups} for key, groups in self.keys[:PLACES]]
        return {"BlockCount": len(self.chunks), "Blocks": blocks, "KeyCount": len(self.keys), "Keys": keys}


def to_merge(repo: "Repo", parents: "Sequence[Ref]") -> "list[Version]":
    """Return the versions that are to be merged; raise unless they are several, each once."""
    above = [repo.version(parent) for parent in check_list(parents, "versions")]
    if len({version.ordinal for version in above}) != len(above) or len(above) < 2:
        raise InvalidInputError("Must specify at least two parent UUIDs using 'parents' field, each once")
    return above


def conflicts(instance: "Instance", parents: "Sequence[Version]") -> Conflicts:
    """Return the conflicts that a merge of these versions would have; its cost follows what they changed."""
    if not instance.versioned:
        return Conflicts(instance.name, (), ())
    ordinals = [version.ordinal for version in parents]
    dataset = instance.dataset
    chunks = []
    for scale, store in sorted(dataset.arrays.items()):
        chunks += [(scale, unpack_one(key), groups) for key, groups in store.conflicts(ordinals)]
    return Conflicts(instance.name, tuple(chunks), tuple(_keys(instance, ordinals)))


def _keys(instance: "Instance", ordinals: Sequence[int]) -> list[tuple[bytes, Groups]]:
    if instance.unites or not instance.dataset.caches.has_documents:
        return []
    return instance.dataset.documents.conflicts(ordinals)


def _loses(parent: int, groups: Groups) -> bool:
    """Tell whether what a parent shows gives way to what the first one shows, if any shows a value."""
    return bool(groups[0]) and any(parent in group for group in groups[1:])


def resolve(
    repo: "Repo", parents: "Sequence[Version]", instances: "Sequence[Instance]", note: str, author: Author
) -> "Version":
    """Merge versions after deleting, in all but the first parent that has it, what they conflict in. Returns the merge.

    A conflict of an earlier merge stays if no parent shows a value that was not written before it.
    """
    found = [(instance, conflicts(instance, parents)) for instance in instances]
    losses = [_losses(number, found) for number in range(len(parents))]
    merged = []
    for parent, losing in zip(parents, losses, strict=True):
        if not losing:
            merged.append(parent)
            continue
        words = "Version for deleting conflicts before merge"
        child = repo.branch(parent, _loser_branch(repo.dag, parent), words, author=author)
        for instance, lost in losing:
            _delete(instance, child, lost, author)
        merged.append(repo.commit(child, author=author))
    version = repo.merge(merged, note, author)
    for instance in instances:
        if instance.versioned:
            instance.resolved(version, parents, author)
    return version


def _loser_branch(dag: "VersionDAG", parent: "Version") -> str:
    """Return DVID's name for it, numbered if the parent lost before, or its resolving was interrupted."""
    name = f"conflict-{parent.uuid}"
    return next(free for free in chain((name,), (f"{name}-{n}" for n in count(2))) if free not in dag.heads)


def _losses(number: int, found: "Sequence[tuple[Instance, Conflicts]]") -> "list[tuple[Instance, Conflicts]]":
    """Return what gives way of what a parent shows, for each instance where something does."""
    losses = []
    for instance, each in found:
        chunks = tuple(chunk for chunk in each.chunks if _loses(number, chunk[2]))
        keys = tuple(key for key in each.keys if _loses(number, key[1]))
        if chunks or keys:
            losses.append((instance, Conflicts(each.instance, chunks, keys)))
    return losses


def _delete(instance: "Instance", version: "Version", lost: Conflicts, author: Author) -> None:
    view = instance.at(version)
    with view.writing() as dataset:
        for scale, store in dataset.arrays.items():
            coords = [coord for at, coord, _ in lost.chunks if at == scale]
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
        for key, _ in lost.keys:
            delete_document(dataset, version.ordinal, key, author, {})
