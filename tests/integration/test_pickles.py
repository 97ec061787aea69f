"""Views that travel to other processes: what they find there."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

import dvidzarr
from dvidzarr.core.errors import StorageError


def made(folder: Path, value: int) -> bytes:
    """Make a store with one voxel, and return a pickle of its view."""
    with dvidzarr.open(folder) as store:
        view: Any = store.create_repo().create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"}).at()
        view[0, 0, 0] = value
        return pickle.dumps(view)


def test_a_store_that_was_made_anew_is_opened_anew(tmp_path: Path) -> None:
    """A process that lives long, a worker or a notebook, had opened the one before at the same place."""
    for value in (1, 2):
        assert pickle.loads(made(tmp_path / "store", value))[0, 0, 0] == value
        shutil.rmtree(tmp_path / "store")


def test_a_store_that_is_gone_is_named(tmp_path: Path) -> None:
    view = made(tmp_path / "store", 1)
    assert pickle.loads(view)[0, 0, 0] == 1
    (tmp_path / "store").rename(tmp_path / "moved")
    with pytest.raises(StorageError, match=f"{tmp_path}/store is no dvidzarr store: it does not exist"):
        pickle.loads(view)
