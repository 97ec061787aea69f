"""What lies where a store keeps its lock or its caches may be anything: it is named, or made do without."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import dvidzarr
from dvidzarr.core.errors import StorageError
from tests.integration.gray_store import BOX, FULL, gray, new_store, write


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("put", [a_folder, a_link])
def test_what_is_no_lock_file_is_named(tmp_path: Path, put: Callable[[Path], None]) -> None:
    store = tmp_path / "store"
    new_store(store, FULL)
    (store / "lock").unlink()
    put(store / "lock")
    with pytest.raises(StorageError, match=str(store / "lock")), dvidzarr.open(store, "w", FULL):
        pass
    with dvidzarr.open(store, "r", FULL) as catalog:
        assert (gray(catalog).read(BOX) == 1).all()


@pytest.mark.parametrize("put", [Path.touch, a_link])
def test_writing_goes_on_without_a_folder_for_the_caches(tmp_path: Path, put: Callable[[Path], None]) -> None:
    store = tmp_path / "store"
    new_store(store, FULL)
    shutil.rmtree(store / "cache")
    put(store / "cache")
    for value in (7, 8):
        with dvidzarr.open(store, "w", FULL) as catalog:
            write(gray(catalog), value)
    with dvidzarr.open(store, "r", FULL) as catalog:
        assert (gray(catalog).read(BOX) == 8).all()
