"""Keyvalue instances under random writes, branches, merges, resolves and restarts show what dictionaries show.

So they do in a second opening of the store that follows the first one.
"""

import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

import dvidzarr
from dvidzarr.datatypes.keyvalue.model import KeyValueView

NAMES = ("a", "ab", "b", "é", "z z", "\U0001f9e0", "a/b", "\udcff")
keys = st.sampled_from(NAMES)
values = st.one_of(st.binary(max_size=8), st.sampled_from((1024, 1025, 70_000)).map(lambda n: b"v" * n))
CONFLICT = "several values"
Seen = tuple[int, bytes | str | None] | None
"""(origin, value): None for a deletion, `CONFLICT` for what the merge version `origin` has, as it were.

A merge version is also the origin of the deletions of several lines.
"""


class Model:
    """Every version's own writes; what a version shows is found by recursion (storage design §3)."""

    def __init__(self) -> None:
        self.parents: list[tuple[int, ...]] = [()]
        self.writes: list[dict[str, bytes | None]] = [{}]
        self.locked: list[bool] = [False]

    def add(self, *parents: int) -> int:
        self.parents.append(parents)
        self.writes.append({})
        self.locked.append(False)
        return len(self.parents) - 1

    def ancestors(self, version: int) -> set[int]:
        return {version}.union(*(self.ancestors(parent) for parent in self.parents[version]))

    def seen(self, version: int, key: str) -> Seen:
        """Return what a version shows, None for nothing."""
        if key in self.writes[version]:
            return version, self.writes[version][key]
        found = {each[0]: each for p in self.parents[version] if (each := self.seen(p, key)) is not None}
        lines = [
            each
            for origin, each in found.items()
            if not any(origin in self.ancestors(other) for other in found if other != origin)
        ]
        alive = [each for each in lines if each[1] is not None]
        if len(alive) > 1:
            return version, CONFLICT
        if len(lines) > 1 and not alive:
            return version, None
        return (alive or lines or [None])[0]

    def shown(self, version: int) -> dict[str, bytes]:
        pairs = ((key, self.seen(version, key)) for key in NAMES)
        return {key: each[1] for key, each in pairs if each is not None and isinstance(each[1], bytes)}


class KeyValueMachine(RuleBasedStateMachine):
    """Versions are numbered alike in the store and in the model."""

    versions = Bundle("versions")

    @initialize(target=versions)
    def begin(self) -> int:
        self.folder = Path(tempfile.mkdtemp(prefix="keyvalue-"))
        self.catalog = dvidzarr.open(self.folder / "store", "w")
        repo = self.catalog.create_repo("machine")
        self.root = repo.root
        repo.create_instance("keyvalue", "kv")
        repo.create_instance("keyvalue", "flat", {"versioned": "false"})
        self.follower = dvidzarr.open(self.folder / "store", "r")
        self.model = Model()
        self.flat: dict[str, bytes] = {}
        self.number = 0
        return 0

    def teardown(self) -> None:
        if hasattr(self, "catalog"):
            self.follower.close()
            self.catalog.close()
            shutil.rmtree(self.folder)

    def view(self, version: int, name: str = "kv", *, following: bool = False) -> KeyValueView:
        repo = (self.follower if following else self.catalog).repo(self.root)
        view = repo.instance(name).at(repo.dag.versions[version])
        assert isinstance(view, KeyValueView)
        return view

    def open_version(self, version: int) -> int:
        """Return the version, or a new child of it if it is locked."""
        if not self.model.locked[version]:
            return version
        repo = self.catalog.repo(self.root)
        self.number += 1
        child = repo.branch(repo.dag.versions[version], f"b{self.number}")
        assert child.ordinal == self.model.add(version)
        return child.ordinal

    @rule(target=versions, version=versions, key=keys, value=values)
    def put(self, version: int, key: str, value: bytes) -> int:
        version = self.open_version(version)
        self.view(version)[key] = value
        self.model.writes[version][key] = value
        return version

    @rule(target=versions, version=versions, key=keys)
    def remove(self, version: int, key: str) -> int:
        version = self.open_version(version)
        self.view(version).remove([key])
        self.model.writes[version][key] = None
        return version

    @rule(target=versions, version=versions, batch=st.dictionaries(keys, values, min_size=1))
    def put_many(self, version: int, batch: dict[str, bytes]) -> int:
        version = self.open_version(version)
        self.view(version).update(batch)
        self.model.writes[version].update(batch)
        return version

    @rule(version=versions)
    def lock(self, version: int) -> None:
        if not self.model.locked[version]:
            repo = self.catalog.repo(self.root)
            repo.commit(repo.dag.versions[version])
            self.model.locked[version] = True

    @rule(target=versions, one=versions, other=versions)
    def merge(self, one: int, other: int) -> int:
        if one == other:
            return one
        self.lock(one)
        self.lock(other)
        repo = self.catalog.repo(self.root)
        merged = repo.merge([repo.dag.versions[one], repo.dag.versions[other]])
        assert merged.ordinal == self.model.add(one, other)
        return merged.ordinal

    @rule(target=versions, one=versions, other=versions)
    def resolve(self, one: int, other: int) -> int:
        """Merge after deleting, in a child of the parent that loses, what conflicts."""
        ancestors = self.model.ancestors
        if one in ancestors(other) or other in ancestors(one):
            return one
        self.lock(one)
        self.lock(other)
        first, second = (self.model.shown(each) for each in (one, other))
        probe = self.model.add(one, other)
        disputed = [key for key in NAMES if self.model.seen(probe, key) == (probe, CONFLICT)]
        for column in (self.model.parents, self.model.writes, self.model.locked):
            column.pop()
        # a value wins over a conflict; of two values the first does; two conflicts stay
        losses = {
            one: [key for key in disputed if key in second and key not in first],
            other: [key for key in disputed if key in first],
        }
        repo = self.catalog.repo(self.root)
        parents = [repo.dag.versions[one], repo.dag.versions[other]]
        merged = repo.resolve_merge(parents, ["kv"])
        one, other = (self.lose(each, losses[each]) for each in (one, other))
        assert merged.ordinal == self.model.add(one, other)
        return merged.ordinal

    def lose(self, version: int, keys: list[str]) -> int:
        """Return the child in which a version's values of keys are deleted, the version itself if there are none."""
        if not keys:
            return version
        child = self.model.add(version)
        self.model.writes[child] = dict.fromkeys(keys)
        self.model.locked[child] = True
        return child

    @rule(version=versions, batch=st.dictionaries(keys, st.none() | values, min_size=1))
    def write_flat(self, version: int, batch: dict[str, bytes | None]) -> None:
        """Unversioned data are written at any version, locked or not."""
        for key, value in batch.items():
            if value is None:
                self.view(version, "flat").remove([key])
                self.flat.pop(key, None)
            else:
                self.view(version, "flat")[key] = value
                self.flat[key] = value

    @rule(version=versions)
    def follow(self, version: int) -> None:
        want = self.model.shown(version)
        view = self.view(version, following=True)
        assert dict(view) == want
        assert view.get_many(NAMES) == want
        assert dict(self.view(version, "flat", following=True)) == self.flat

    @rule()
    def follow_anew(self) -> None:
        self.follower.close()
        self.follower = dvidzarr.open(self.folder / "store", "r")

    @rule(drop=st.booleans())
    def restart(self, drop: bool) -> None:
        self.catalog.close()
        if drop:
            shutil.rmtree(self.folder / "store" / "cache")
        self.catalog = dvidzarr.open(self.folder / "store", "w")

    @rule(version=versions, first=keys, last=keys)
    def compare_range(self, version: int, first: str, last: str) -> None:
        low, high = (key.encode("utf-8", "surrogateescape") for key in (first, last))
        shown = self.model.shown(version).items()
        order = sorted((key.encode("utf-8", "surrogateescape"), value) for key, value in shown)
        want = [(key, value) for key, value in order if low <= key <= high]
        found = [
            (key.encode("utf-8", "surrogateescape"), v) for key, v in self.view(version).range(first, last)
        ]
        assert found == want

    @invariant()
    def compare(self) -> None:
        if not hasattr(self, "catalog"):
            return
        for version in range(len(self.model.parents)):
            want = self.model.shown(version)
            view = self.view(version)
            assert dict(view) == want
            assert view.get_many(NAMES) == want
            assert dict(self.view(version, "flat")) == self.flat


TestKeyValue = KeyValueMachine.TestCase
