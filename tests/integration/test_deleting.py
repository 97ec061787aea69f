"""Deleting an instance while the background still works for it."""

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.geometry import Box
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage.local import LocalBackend


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        catalog.create_repo("deleting")
        yield catalog


def test_deleting_an_instance_while_a_version_is_finished(
    catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    repo = catalog.repos[0]
    version = repo.new_version(repo.commit(repo.dag.root))
    for number in range(8):
        instance = repo.create_instance("uint8blk", f"volume-{number}", {"BlockSize": "8,8,8"}, version)
        for value in range(3):  # chunks that were written again are copied when the version is locked
            view = instance.at(version)
            assert isinstance(view, VoxelView)
            view.write(Box((0, 0, 0), (32, 32, 16)), np.full((32, 32, 16), value, np.uint8))
        locked = repo.commit(version)
        repo.delete_instance(instance.name)
        version = repo.new_version(locked)
        assert catalog.context.housekeeper.settle(120)
        assert not (Path(catalog.url) / instance.prefix).exists()
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("is_repo", [False, True])
def test_a_file_that_the_background_writes_behind_a_deletion_brings_nothing_back(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, is_repo: bool
) -> None:
    """The metadata of a version, written a moment after the folder of it left; readers look just then."""
    doomed = catalog.create_repo("doomed")
    instance = doomed.create_instance("uint8blk", "gray", {"BlockSize": "8,8,8"})
    instance.at().write(Box((0, 0, 0), (8, 8, 8)), np.full((8, 8, 8), 7, np.uint8))  # type: ignore[attr-defined]
    is_written, is_gone = threading.Event(), threading.Event()
    replace = LocalBackend.replace

    def late(backend: LocalBackend, key: str, data: bytes) -> None:
        is_written.set()
        assert is_gone.wait(60)
        replace(backend, key, data)

    with dvidzarr.open(catalog.url, "r") as follower:
        assert len(follower.repos) == 2
        with monkeypatch.context() as patch:
            patch.setattr(LocalBackend, "replace", late)
            doomed.commit(doomed.dag.root)
            assert is_written.wait(60)
            catalog.delete_repo(doomed.root) if is_repo else doomed.delete_instance("gray")
            is_gone.set()
            assert catalog.context.housekeeper.settle(120)
        assert not (Path(catalog.url) / instance.prefix).exists()
        assert (doomed.root in [repo.root for repo in follower.repos]) != is_repo


def test_what_a_killed_process_wrote_behind_a_deletion_is_no_repo(catalog: Catalog) -> None:
    doomed = catalog.create_repo("doomed")
    instance = doomed.create_instance("uint8blk", "gray", {"BlockSize": "8,8,8"})
    instance.at().write(Box((0, 0, 0), (8, 8, 8)), np.full((8, 8, 8), 7, np.uint8))  # type: ignore[attr-defined]
    with dvidzarr.open(catalog.url, "r") as follower:
        assert len(follower.repos) == 2
        catalog.delete_repo(doomed.root)
        catalog.close()
        left = Path(catalog.url) / instance.prefix / "versions" / doomed.root / "zarr.json"
        left.parent.mkdir(parents=True)
        left.write_text("{}")
        with dvidzarr.open(catalog.url, "r") as reader:
            for each in (follower, reader):
                assert [repo.alias for repo in each.repos] == ["deleting"]
                assert each.broken == {}
    with dvidzarr.open(catalog.url, "w") as again:
        assert not (Path(catalog.url) / doomed.prefix).exists()
        assert [each for each in again.verify(deep=True) if each.severity == "error"] == []


def test_a_repo_that_was_put_back_and_lost_its_log_is_no_rubbish(catalog: Catalog, tmp_path: Path) -> None:
    doomed = catalog.create_repo("doomed")
    doomed.create_instance("keyvalue", "keys").at()["a"] = b"1"  # type: ignore[attr-defined, index]
    place, copy = Path(catalog.url) / doomed.prefix, tmp_path / "copy"
    shutil.copytree(place, copy)
    catalog.delete_repo(doomed.root)
    catalog.close()
    shutil.copytree(copy, place)
    shutil.rmtree(place / "log")
    for mode in ("r", "w"):
        with dvidzarr.open(catalog.url, mode) as again:
            assert [repo.alias for repo in again.repos] == ["deleting"]
            assert list(again.broken) == [doomed.id]
    assert (place / "data").is_dir()


@pytest.mark.parametrize("when", ["open", "closed", "killed"])
@pytest.mark.parametrize("is_repo", [False, True])
def test_caches_of_what_is_deleted_are_removed(catalog: Catalog, is_repo: bool, when: str) -> None:
    doomed = catalog.create_repo("doomed")
    instance = doomed.create_instance("keyvalue", "keys")
    instance.at()["a"] = b"1"  # type: ignore[attr-defined, index]
    instance.dataset.save_caches()
    folder = catalog.context.cache_dir / instance.id
    assert list(folder.iterdir())
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    catalog.close()
    with dvidzarr.open(catalog.url, "w") as again:
        repo = again.repo(doomed.root)
        _ = repo.instance("keys").dataset if when == "open" else None
        again.delete_repo(repo.root) if is_repo else repo.delete_instance("keys")
        assert again.context.housekeeper.settle(120)
        assert not folder.exists()
    if when == "killed" and not is_repo:  # before they were removed
        copy.rename(folder)
        dvidzarr.open(catalog.url, "w").close()
        assert not folder.exists()


def test_what_is_deleted_on_a_full_disk_is_gone(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting makes room: it must not need some, nor may the rest be unusable until there is some."""
    repo, doomed = catalog.repos[0], catalog.create_repo("doomed")
    kept, gone = (repo.create_instance("uint8blk", name, {"BlockSize": "8,8,8"}) for name in ("kept", "gone"))
    view = kept.at()
    assert isinstance(view, VoxelView)
    view.write(Box((0, 0, 0), (8, 8, 8)), np.full((8, 8, 8), 7, np.uint8))
    gone.at().write(Box((0, 0, 0), (8, 8, 8)), np.full((8, 8, 8), 7, np.uint8))  # type: ignore[attr-defined]
    rename = os.rename

    def full(source: str, target: str) -> None:
        if "/trash/" in target:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        repo.delete_instance("gone")
        catalog.delete_repo(doomed.root)
        catalog.close()
        with dvidzarr.open(catalog.url, "w") as again:
            assert [each.root for each in again.repos] == [repo.root]
            assert list(again.repos[0].instances) == ["kept"]
            found = again.repos[0].instance("kept").at()
            assert isinstance(found, VoxelView)
            assert (found.read(Box((0, 0, 0), (8, 8, 8))) == 7).all()
            assert [each for each in again.verify(deep=True) if each.severity == "error"] == []
    folders = Path(catalog.url) / gone.prefix, Path(catalog.url) / doomed.prefix
    assert [folder.exists() for folder in folders] == [True, True]
    with dvidzarr.open(catalog.url, "w"):
        assert [folder.exists() for folder in folders] == [False, False]
    assert len(list((Path(catalog.url) / "trash").iterdir())) == 2
