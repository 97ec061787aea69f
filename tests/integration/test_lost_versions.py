"""Versions that are given up because their records in the log of the repo are damaged."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import VersionLockedError
from dvidzarr.storage.frames import Entry, Kind
from tests.integration import gray_store
from tests.integration.cli_process import Shell
from tests.integration.damaged_store import SETTINGS, WORLD, flip, new_store, noise, views


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


def damage_version(store: Path, number: int, kind: Kind = Kind.VERSION) -> Entry:
    """Damage the record that made a version, or another one; return what it was."""
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        repo = catalog.repos[0]
        record = [entry for entry in repo.records() if entry.kind == kind][number]
    flip(store / repo.prefix / "log/00000001.log", record.offset - 1)
    return record


@pytest.mark.parametrize("cached", [True, False])
def test_a_version_that_is_given_up_takes_only_its_own_data_along(
    store: Path, shell: Shell, cached: bool
) -> None:
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        before = views(catalog)
    damage_version(store, -1)
    if not cached:
        shutil.rmtree(store / "cache")
    assert shell.run("verify", store, "--repair", "--deep").code == 0
    assert shell.run("verify", store, "--deep").code == 0
    for mode in ("r", "w"):
        with dvidzarr.open(store, mode, SETTINGS) as catalog:
            np.testing.assert_array_equal(views(catalog), before[:2])
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        catalog.repos[0].new_version(catalog.repos[0].dag.head(""))
        gray_store.gray(catalog).write(WORLD, noise(9))
        np.testing.assert_array_equal(gray_store.gray(catalog).read(WORLD), noise(9))
    assert shell.run("verify", store, "--deep").code == 0


def branchy_store(store: Path) -> dict[str, np.ndarray]:
    """Make root → a → b and root → side, merged, and an instance there; return what each of the first four shows."""
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        repo = catalog.create_repo("branchy")
        gray = repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
        made = {"root": repo.dag.root}
        for number, (name, parent) in enumerate({"root": "", "a": "root", "b": "a", "side": "root"}.items()):
            if parent:
                made[name] = repo.branch(made[parent], name)
            gray.at(made[name]).write(WORLD, noise(number))
            made[name] = repo.commit(made[name])
        repo.merge([made["b"], made["side"]])
        repo.create_instance("uint8blk", "late")
        assert catalog.context.housekeeper.settle(120)
        return {version.uuid: gray.at(version).read(WORLD) for version in made.values()}


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(("lost", "left"), [(1, (0, 3)), (2, (0, 1, 3)), (3, (0, 1, 2)), (4, (0, 1, 2, 3))])
def test_what_comes_from_a_version_that_is_given_up_is_lost_with_it_and_nothing_else(
    tmp_path: Path, shell: Shell, lost: int, left: tuple[int, ...], cached: bool
) -> None:
    store = tmp_path / "branchy"
    before = list(branchy_store(store).items())
    record = damage_version(store, lost)
    if not cached:
        shutil.rmtree(store / "cache")
    assert shell.run("verify", store, "--repair", "--deep").code == 0
    seen = shell.run("verify", store, "--deep")
    assert seen.code == 0
    assert (f"needs version {record.header['id']}, which was given up" in seen.out) == (lost in (1, 2, 3))
    assert "should they be found in a copy" in shell.run("gc", store).out
    for mode in ("r", "w"):
        with dvidzarr.open(store, mode, SETTINGS) as catalog:
            repo = catalog.repos[0]
            assert list(repo.instances) == ["gray", "late"]
            assert [version.uuid for version in repo.dag] == [before[index][0] for index in left]
            for index in left:
                uuid, voxels = before[index]
                np.testing.assert_array_equal(repo.instance("gray").at(uuid).read(WORLD), voxels)


def test_a_repo_without_its_root_is_not_taken_for_one_that_was_never_made(store: Path, shell: Shell) -> None:
    damage_version(store, 0)
    assert shell.run("verify", store, "--repair").code == 1
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        assert len(catalog.broken) == 1
    assert [path.name for path in store.glob("repos/*")] == list(catalog.broken)


@pytest.mark.parametrize("number", [0, 1])
def test_a_version_with_children_stays_locked_when_its_commit_is_given_up(
    store: Path, shell: Shell, number: int
) -> None:
    """It could be written again, which changed what the locked versions below it showed."""
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        before = views(catalog)
    damage_version(store, number, Kind.COMMIT)
    assert shell.run("verify", store, "--repair").code == 0
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        assert [version.locked for version in catalog.repos[0].dag] == [True, True, False]
        view = gray_store.gray(catalog).instance.at(list(catalog.repos[0].dag)[number])
        with pytest.raises(VersionLockedError):
            view.write(WORLD, noise(9))
        assert catalog.context.housekeeper.settle(120)
        np.testing.assert_array_equal(views(catalog), before)
    for mode in ("r", "w"):
        with dvidzarr.open(store, mode, SETTINGS) as catalog:
            np.testing.assert_array_equal(views(catalog), before)
    assert shell.run("verify", store, "--deep").code == 0


def test_ids_whose_reservation_is_given_up_are_not_given_again(store: Path, shell: Shell) -> None:
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        reserved = catalog.repos[0].saved_mutation_id
    damage_version(store, -1, Kind.IDS)
    assert shell.run("verify", store, "--repair").code == 0
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        assert catalog.repos[0].next_mutation() >= reserved


def test_an_instance_whose_renaming_is_given_up_is_not_taken_for_its_successor(
    store: Path, shell: Shell
) -> None:
    """The one that took its old name hid it, and all its data with it."""
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        repo = catalog.repos[0]
        gray = repo.rename_instance("gray", "old")
        repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
        before = gray.at().read(WORLD)
        repo.rename_instance("other", "third")
    damage_version(store, 0, Kind.RENAME)
    assert shell.run("verify", store, "--repair").code == 0
    for mode in ("r", "w"):
        with dvidzarr.open(store, mode, SETTINGS) as catalog:
            repo = catalog.repos[0]
            name = f"gray-{gray.id[:8]}"
            assert sorted(repo.instances) == ["gray", name, "third"]
            np.testing.assert_array_equal(repo.instance(name).at().read(WORLD), before)
            assert not repo.instance("gray").at().read(WORLD).any()
