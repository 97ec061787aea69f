"""Merges of versions that show a conflict: it goes on until somebody who saw it writes or deletes what it is about."""

from pathlib import Path
from typing import Any

import pytest

import dvidzarr
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.dag import Version
from dvidzarr.storage.merging import Groups


class World:
    """Two versions that differ in a block and a key, `one` and `other`, and `conflict`, their merge; all locked."""

    def __init__(self, catalog: Catalog) -> None:
        self.repo = catalog.create_repo("merges")
        self.gray: Any = self.repo.create_instance("uint8blk", "gray", {"BlockSize": "8,8,8"})
        self.notes: Any = self.repo.create_instance("keyvalue", "notes")
        self.put(self.repo.dag.versions[0], 9)
        self.root = self.repo.commit(self.repo.root)
        self.one, self.other = (self.child(self.root, name) for name in ("one", "other"))
        self.put(self.one, 1)
        self.put(self.other, 2)
        self.repo.commit(self.one)
        self.repo.commit(self.other)
        self.conflict = self.merge(self.other, self.one)

    def child(self, parent: Version, name: str) -> Version:
        return self.repo.branch(parent, name)

    def put(self, version: Version, number: int) -> None:
        self.gray.at(version)[0:8, 0:8, 0:8] = number
        self.notes.at(version)["key"] = bytes([number])

    def merge(self, *parents: Version) -> Version:
        return self.repo.commit(self.repo.merge(parents))

    def shown(self, version: Version) -> tuple[int, list[int]]:
        """Return the voxels' value, and that of the key, if it is there."""
        notes = self.notes.at(version)
        assert (list(notes) == ["key"]) == ("key" in notes)
        return int(self.gray.at(version)[0, 0, 0]), [value[0] for value in notes.values()]


@pytest.fixture
def world(tmp_path: Path) -> Any:  # noqa: ANN401
    with dvidzarr.open(tmp_path / "store") as catalog:
        yield World(catalog)


def test_no_parent_settles_a_conflict_that_it_did_not_see(world: World) -> None:
    bystander = world.repo.commit(world.child(world.root, "bystander"))
    third = world.child(world.root, "third")
    world.put(third, 3)
    world.repo.commit(third)
    for others in ((bystander,), (third,), (world.one,), (world.other,), (world.root,), (bystander, third)):
        for parents in ((world.conflict, *others), (*others, world.conflict)):
            merged = world.merge(*parents)
            assert world.shown(merged) == (0, []), parents
            assert world.shown(world.merge(world.one, merged)) == (0, [])


def test_what_was_written_over_a_conflict_wins(world: World) -> None:
    settled = world.child(world.conflict, "settled")
    world.put(settled, 4)
    world.repo.commit(settled)
    still = world.repo.commit(world.child(world.conflict, "still"))
    assert world.shown(still) == (0, [])
    for parents in ((settled, still), (still, settled), (world.conflict, settled), (world.one, settled)):
        assert world.shown(world.merge(*parents)) == (4, [4]), parents


@pytest.mark.parametrize("turned", [False, True])
def test_what_two_lines_deleted_does_not_come_back_from_a_third(world: World, *, turned: bool) -> None:
    """`one` is seen by a version that deletes it and one that leaves it; `other` is deleted as well."""
    deleters = [world.child(world.one, "deletes one"), world.child(world.other, "deletes other")]
    for version in deleters:
        del world.notes.at(version)["key"]
        world.gray.at(version).store().delete_sync("0/c/0/0/0")
        world.repo.commit(version)
    untouched = world.repo.commit(world.child(world.one, "untouched"))
    gone = world.merge(*(reversed(deleters) if turned else deleters))
    assert world.shown(gone) == (0, [])
    for parents in ((gone, untouched), (untouched, gone)):
        assert world.shown(world.merge(*parents)) == (0, [])
    rewritten = world.child(deleters[0], "rewritten")
    world.put(rewritten, 6)
    world.repo.commit(rewritten)
    assert world.shown(world.merge(gone, rewritten)) == (6, [6])


@pytest.mark.parametrize(
    ("parents", "groups", "shown"),
    [
        (("conflict", "third"), ((1,), (0,)), (3, [3])),
        (("third", "conflict"), ((0,), (1,)), (3, [3])),
        (("root", "conflict"), ((), (1,)), (0, [])),
    ],
)
def test_a_conflict_is_reported_and_can_be_resolved(
    world: World, parents: tuple[str, ...], groups: Groups, shown: tuple[int, list[int]]
) -> None:
    third = world.child(world.root, "third")
    world.put(third, 3)
    named = vars(world) | {"third": world.repo.commit(third)}
    versions = [named[name] for name in parents]
    found = {each.instance: each for each in world.repo.conflicts(versions)}
    assert found["gray"].chunks == ((0, (0, 0, 0), groups),)
    assert found["notes"].keys == ((b"key", groups),)
    merged = world.repo.resolve_merge(versions, ["gray", "notes"])
    assert world.shown(merged) == shown
    world.put(merged, 5)
    assert world.shown(world.repo.commit(merged)) == (5, [5])
