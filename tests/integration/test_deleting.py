"""Deleting an instance while the background still works for it."""

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
