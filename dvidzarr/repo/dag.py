"""The version DAG of a repo as a value: each change returns a new one. Rules and words: spec-server §3, §4.5."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from immutables import Map

from dvidzarr.core.errors import ConflictError, InvalidInputError, NotFoundError
from dvidzarr.core.ids import is_uuid
from dvidzarr.core.lineage import Lineage
from dvidzarr.core.texts import check_text

MASTER = ""
"""The default branch; "master" in URLs."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version (DVID: node).

    Attributes
    ----------
    uuid : str
        The public name: 32 hex digits, or a tag's text.
    id : str
        Our own 32 hex digits, used in logs and paths.
    ordinal : int
        Index in the repo, in the order of creation: parents come before children.
    number : int
        DVID's VersionID: from 1, unique in the store.
    parents : tuple of int
        Ordinals; the first one is the lineage.
    created, updated : str
        RFC 3339.
    """

    uuid: str
    id: str
    ordinal: int
    number: int
    branch: str
    parents: tuple[int, ...]
    created: str
    updated: str
    note: str = ""
    log: tuple[str, ...] = ()
    locked: bool = False


Ref = str | Version
"""How users name a version: by a reference (see `Catalog.resolve`), or as one they have."""


@dataclass(frozen=True, slots=True, eq=False)
class VersionDAG:
    """All versions of a repo by ordinal, and what follows from them.

    The maps are persistent: a change costs the same at any number of versions. Equal means the same object.
    """

    versions: Map[int, Version] = Map()
    by_uuid: Map[str, int] = Map()
    by_id: Map[str, int] = Map()
    children_of: Map[int, tuple[int, ...]] = Map()
    heads: Map[str, int] = Map()
    """Branch → its most recently created version."""
    merge_ordinals: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.versions)

    def __iter__(self) -> Iterator[Version]:
        return (self.versions[ordinal] for ordinal in range(len(self.versions)))

    @property
    def root(self) -> Version:
        """The version without parents; it gives the repo its name."""
        return self.versions[0]

    def children(self, ordinal: int) -> tuple[int, ...]:
        """Return the ordinals of the children of a version."""
        return self.children_of.get(ordinal, ())

    # --- changes ---------------------------------------------------------------------------------------------

    def with_version(self, version: Version) -> "VersionDAG":
        """Return the DAG with one more version."""
        children = self.children_of
        for parent in version.parents:
            children = children.set(parent, (*children.get(parent, ()), version.ordinal))
        merged = (*self.merge_ordinals, version.ordinal) if len(version.parents) > 1 else self.merge_ordinals
        return VersionDAG(
            self.versions.set(version.ordinal, version),
            self.by_uuid.set(version.uuid, version.ordinal),
            self.by_id.set(version.id, version.ordinal),
            children,
            self.heads.set(version.branch, version.ordinal),
            merged,
        )

    def with_change(self, ordinal: int, **changes: object) -> "VersionDAG":
        """Return the DAG with some members of a version changed (note, log, locked, updated)."""
        changed = replace(self.versions[ordinal], **changes)  # type: ignore[arg-type]
        return replace(self, versions=self.versions.set(ordinal, changed))

    # --- what may be added -----------------------------------------------------------------------------------

    def check_child(self, parents: Sequence[Version], branch: str) -> None:
        """Raise unless a version of this branch may be added below these parents."""
        if not all(parent.locked for parent in parents):
            raise ConflictError("can't branch an unlocked node")
        first = parents[0]
        if branch == first.branch:
            if len(parents) == 1 and any(
                self.versions[c].branch == branch for c in self.children(first.ordinal)
            ):
                raise ConflictError("branch already exists with given name")
        elif len(parents) == 1 and branch in self.heads:
            raise ConflictError("branch already exists with given name")

    # --- looking up ------------------------------------------------------------------------------------------

    def head(self, branch: str) -> Version:
        """Return the most recently created version of a branch ("master" or "" = the default)."""
        ordinal = self.heads.get(branch_name(branch))
        if ordinal is None:
            raise NotFoundError(f'branch "{branch}" not found in repo "{self.root.uuid}"')
        return self.versions[ordinal]

    def branch_versions(self, branch: str) -> list[Version]:
        """Return the versions of a branch from its leaf to the root, all parents of a merge in order (spec-server §3.3).

        Raises
        ------
        ConflictError
            A version of the branch has several children on it: it has no one leaf.
        """
        name = branch_name(branch)
        if name not in self.heads:
            return []
        self._check_one_leaf(name)
        current = self.versions[self.heads[name]]
        found = [current]
        while current.parents:
            found.extend(self.versions[parent] for parent in current.parents)
            current = self.versions[current.parents[-1]]
        return found

    def _check_one_leaf(self, name: str) -> None:
        """Raise if a version of a branch has several children on it; only a merge can be the second one."""
        merges = (self.versions[ordinal] for ordinal in self.merge_ordinals)
        parents = dict.fromkeys(up for merge in merges if merge.branch == name for up in merge.parents)
        for parent in (self.versions[up] for up in parents if self.versions[up].branch == name):
            children = (self.versions[below] for below in self.children(parent.ordinal))
            uuids = [child.uuid for child in children if child.branch == name]
            if len(uuids) > 1:
                raise ConflictError(
                    f'branch "{name or "master"}" has more than 1 child: {", ".join(uuids)} of {parent.uuid}'
                )

    def on_branch(self, text: str) -> Version:
        """Return the head of a branch, or with `branch~N` its N-th version from the leaf (spec-server §3.2)."""
        branch, tilde, steps = text.partition("~")
        if not tilde:
            return self.head(branch)
        versions = self.branch_versions(branch_name(branch))
        if not versions:
            return self.head(branch)
        if not (steps.isascii() and steps.isdigit()) or len(steps) > 9:
            raise InvalidInputError(f'can\'t parse parent "{steps[:80]}" in branch "{branch}"')
        if int(steps) >= len(versions):
            raise NotFoundError(f'parent {steps} is out of range for branch "{branch}"')
        return versions[int(steps)]

    def ancestors(self, ordinal: int) -> frozenset[int]:
        """Return a version and all its ancestors, through every parent."""
        seen, waiting = {ordinal}, [ordinal]
        while waiting:
            for parent in self.versions[waiting.pop()].parents:
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
        return frozenset(seen)

    def lineage(self, ordinal: int) -> Lineage:
        """Return the first-parent chain of a version."""
        chain, current = [ordinal], self.versions[ordinal]
        while current.parents:
            chain.append(current.parents[0])
            current = self.versions[current.parents[0]]
        lineage = Lineage.root(chain.pop())
        if chain:
            ranks = lineage.child(ordinal).ranks
            ranks[chain] = range(len(chain), 0, -1)
            lineage = Lineage(ranks, ordinal)
        return lineage

    def fingerprint(self, count: int | None = None) -> str:
        """Return a text that stays the same while the first `count` ordinals mean the same versions."""
        ids = [
            self.versions[ordinal].id
            for ordinal in range(min(len(self), len(self) if count is None else count))
        ]
        return f"{len(ids)} {hashlib.sha256(''.join(ids).encode()).hexdigest()}"


def branch_name(text: str) -> str:
    """Return the branch as it is stored: "master" is the empty text."""
    return MASTER if text == "master" else text


def check_uuid(text: str) -> None:
    """Raise unless an explicit version UUID is 32 hex digits."""
    if not is_uuid(check_text(text, "a UUID")):
        wrong = len(text) != 32
        why = (
            "UUID must be 32 character hexadecimal string"
            if wrong
            else f"encoding/hex: invalid byte in {text!r}"
        )
        raise InvalidInputError(f"Bad UUID provided: {why}")
