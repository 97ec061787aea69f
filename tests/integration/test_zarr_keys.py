"""Keys of the Zarr store of a volume that name neither a chunk nor its metadata: documents like any other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from zarr.core.buffer import cpu

import dvidzarr
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.datatypes.voxels.view import VoxelView

PROTOTYPE = cpu.buffer_prototype


@pytest.fixture
def view(tmp_path: Path) -> Iterator[VoxelView]:
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        view: Any = catalog.create_repo().create_instance("uint8blk", "gray", {"BlockSize": "8,8,8"}).at()
        view[0:8, 0:8, 0:8] = 7
        yield view


@pytest.mark.parametrize(
    "key",
    ["", "0", "0/", "/0", "0/c", "0/c/0", "0/c/00/0/0", "0/c/0/0/0/0", "0/c/-1/0/0", "zarr.json/x", "1", "c"],
)
async def test_what_was_written_is_there_until_it_is_deleted(view: VoxelView, key: str) -> None:
    store = view.store()
    before = {each async for each in store.list()}
    for _ in range(2):
        await store.set(key, cpu.Buffer.from_bytes(b"abc"))
        assert (await store.get(key, PROTOTYPE)).to_bytes() == b"abc"
        assert await store.exists(key)
        assert await store.getsize(key) == 3
        assert {each async for each in store.list()} == before | {key}
        await store.delete(key)
        assert not await store.exists(key)
        assert await store.get(key, PROTOTYPE) is None
        assert {each async for each in store.list()} == before
    await store.delete(key)
    assert (view[0:8, 0:8, 0:8] == 7).all()
    assert view.array().shape == (8, 8, 8)


@pytest.mark.parametrize("key", ["zarr.json", "0/zarr.json"])
async def test_what_describes_the_volume_stays(view: VoxelView, key: str) -> None:
    store = view.store()
    with pytest.raises(InvalidInputError, match="describes a data instance"):
        await store.delete(key)
    for folder in ("", "0", "0/"):
        with pytest.raises(InvalidInputError, match="describes a data instance"):
            await store.delete_dir(folder)
    assert await store.exists(key)
