"""Deleting an instance while the background still works for it."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.geometry import Box
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.catalog import Catalog


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
