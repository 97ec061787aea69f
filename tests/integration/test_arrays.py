"""A volume as zarr, dask and xarray show and write it, compared with `view.read` and numpy."""

import pickle
import shutil
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import dask.array
import numpy as np
import pytest
import xarray
import zarr
from crc32c import crc32c
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from zarr.core.buffer import default_buffer_prototype

from dvidzarr.core.errors import DvidzarrError, ForbiddenError
from dvidzarr.core.geometry import CHUNK_LIMIT, Box, ChunkSpan
from dvidzarr.datatypes.voxels import arrays
from dvidzarr.datatypes.voxels.arrays import LazyVoxels, block_shape
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.repo import Repo
from dvidzarr.wire.compression import lz4_decode

SHAPE = (20, 30, 45)
EDIT = (slice(3, 11), slice(0, 17), slice(20, 45))
CONFIG = {"BlockSize": "16,16,16", "VoxelSize": "4.6,4.6,50", "VoxelUnits": "nanometers,nanometers,microns"}


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(2).integers(1, 255, SHAPE, np.uint8)


@pytest.fixture
def repo(catalog: Catalog) -> Repo:
    return catalog.create_repo("arrays")


@pytest.fixture
def root(repo: Repo, voxels: np.ndarray) -> VoxelView:
    """Return an open root with voxels."""
    view = repo.create_instance("uint8blk", "gray", CONFIG, repo.dag.root).at()
    assert isinstance(view, VoxelView)
    view[: SHAPE[0], : SHAPE[1], : SHAPE[2]] = voxels
    return view


@pytest.fixture
def child(root: VoxelView, repo: Repo) -> VoxelView:
    """Return a version that wrote over a part of its locked parent."""
    repo.commit(root.version)
    child = root.instance.at(repo.new_version(root.version))
    child[EDIT] = 255 - child[EDIT]
    return child


# --- zarr --------------------------------------------------------------------------------------------------------


def test_zarr_shows_each_version(root: VoxelView, child: VoxelView, voxels: np.ndarray) -> None:
    expected = voxels.copy()
    expected[EDIT] = 255 - expected[EDIT]
    for view, wanted in ((root, voxels), (child, expected)):
        array = view.array()
        assert array.shape == view.shape == SHAPE
        assert array.chunks == view.instance.chunk
        assert array.dtype == np.uint8
        assert array.metadata.dimension_names == ("z", "y", "x")
        np.testing.assert_array_equal(array[:], wanted)
        np.testing.assert_array_equal(array[5:17, 16:17, ::7], wanted[5:17, 16:17, ::7])


def test_a_locked_root_is_plain_zarr(root: VoxelView, child: VoxelView, voxels: np.ndarray) -> None:
    folder = Path(root.instance.repo.url) / root.instance.prefix / "versions" / root.version.id
    deadline = time.monotonic() + 120
    while zarr.open_group(folder, mode="r").attrs["dvidzarr"]["state"] != "locked":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    plain = zarr.open_group(folder, mode="r")
    np.testing.assert_array_equal(plain["0"][:], voxels)
    np.testing.assert_array_equal(plain["0"][:], root.array()[:])
    assert dict(plain.attrs) == dict(zarr.open_group(root.store(), mode="r").attrs)
    assert plain["0"].metadata == root.array().metadata


def test_zarr_writes_parts_of_chunks(child: VoxelView, root: VoxelView, voxels: np.ndarray) -> None:
    array, expected = child.array(), child[:]
    patch = np.random.default_rng(3).integers(0, 255, (7, 9, 21), np.uint8)
    array[10:17, 13:22, 11:32] = expected[10:17, 13:22, 11:32] = patch
    array[:, 29, 44] = expected[:, 29, 44] = 3
    array[::3, ::5, ::2] = expected[::3, ::5, ::2] = 77
    np.testing.assert_array_equal(child.read(Box((0, 0, 0), SHAPE)), expected)
    np.testing.assert_array_equal(array[:], expected)
    np.testing.assert_array_equal(root.array()[:], voxels)


def test_zeros_hide_what_the_parent_has(child: VoxelView, repo: Repo, voxels: np.ndarray) -> None:
    child.array()[:16, :16, :16] = 0  # zarr deletes a chunk of nothing but fill values
    expected = voxels.copy()
    expected[EDIT] = 255 - expected[EDIT]
    expected[:16, :16, :16] = 0
    np.testing.assert_array_equal(child[:], expected)
    assert "0/c/0/0/0" not in zarr.open_group(child.store()).store_path.store._keys.keys("")
    repo.commit(child.version)
    grandchild = child.instance.at(repo.new_version(child.version))
    np.testing.assert_array_equal(grandchild.array()[:], expected)
    grandchild.array()[3, 3, 3] = 1
    assert int(grandchild[:16, :16, :16].sum()) == 1


def test_resize_changes_the_extents(child: VoxelView, root: VoxelView, voxels: np.ndarray) -> None:
    array, expected = child.array(), child[:]
    array.resize((10, 40, 33))
    assert child.extents == Box((0, 0, 0), (10, 40, 33))
    assert child.shape == child.array().shape == (10, 40, 33)
    np.testing.assert_array_equal(child.array()[:, :30], expected[:10, :, :33])
    array.resize(SHAPE)
    assert child.array().shape == SHAPE
    kept = np.zeros_like(expected)
    kept[:16, :32, :48] = expected[:16, :32, :48]  # zarr deletes whole chunks only
    np.testing.assert_array_equal(child.array()[:], kept)
    assert root.shape == SHAPE
    np.testing.assert_array_equal(root.array()[:], voxels)
    array.append(np.full((4, *SHAPE[1:]), 8, np.uint8))
    assert child.extents == Box((0, 0, 0), (24, *SHAPE[1:]))
    assert (child[20:24] == 8).all()
    array.resize((0, 5, 5))
    assert child.array().shape == (0, 5, 5)
    assert child.dask().compute().shape == (0, 5, 5)


def test_from_nothing_through_zarr(repo: Repo) -> None:
    view = repo.create_instance("uint8blk", "new", CONFIG, repo.dag.root).at()
    assert view.array().shape == view.dask().shape == view.xarray().shape == (0, 0, 0)
    assert view.dask().compute().size == 0
    array = view.array()
    array.resize((20, 20, 20))
    array[4:20, 2:18, 1:20] = 5
    assert view.extents == Box((0, 0, 0), (20, 20, 20))
    assert (view[4:20, 2:18, 1:20] == 5).all()
    assert int(view[:].sum()) == 5 * 16 * 16 * 19


def test_zarr_lets_extents_grow_downwards(repo: Repo) -> None:
    view = repo.create_instance("uint8blk", "high", CONFIG, repo.dag.root).at()
    view[32:40, 32:40, 32:40] = 9
    assert view.extents == Box((32, 32, 32), (40, 40, 40))
    view.array()[0:3, 33, 39] = 1
    assert view.extents == Box((0, 32, 32), (40, 40, 40))
    np.testing.assert_array_equal(view.array()[:], view[:])


def test_wide_types(repo: Repo) -> None:
    for name, dtype in (("uint16blk", "<u2"), ("uint64blk", "<u8"), ("float32blk", "<f4")):
        view = repo.create_instance(name, name, CONFIG, repo.dag.root).at()
        data = np.random.default_rng(4).integers(0, 1000, (17, 16, 40)).astype(dtype)
        view[0:17, 0:16, 0:40] = data
        array = view.array()
        assert array.dtype == dtype
        array[3:5, :, :] = data[3:5] = 2
        for shown in (array[:], view.dask().compute(), view.xarray().values, view[:]):
            np.testing.assert_array_equal(shown, data)


def test_threads_write_different_chunks(root: VoxelView) -> None:
    array, expected = root.array(), np.zeros(SHAPE, np.uint8)
    array[:] = 0
    new = np.random.default_rng(5).integers(0, 9, SHAPE, np.uint8)
    corners = [(z, y, x) for z in range(0, 20, 16) for y in range(0, 30, 16) for x in range(0, 45, 16)]

    def write(corner: tuple[int, ...]) -> None:
        place = tuple(slice(at, at + 16) for at in corner)
        expected[place] = new[place]
        root.array()[place] = new[place]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, corners * 3))
    np.testing.assert_array_equal(root[:], expected)


def test_readers_see_whole_chunks_while_others_write(root: VoxelView) -> None:
    array = root.array()
    array[0:16, 0:16, 0:16] = 1
    ended = threading.Event()
    torn: list[np.ndarray] = []

    def look() -> None:
        while not ended.is_set():
            seen = np.unique(array[0:16, 0:16, 0:16])
            if len(seen) > 1:
                torn.append(seen)

    reader = threading.Thread(target=look)
    reader.start()
    for value in range(60):
        root.array()[0:16, 0:16, 0:16] = value % 4  # 0 is a deletion
    ended.set()
    reader.join()
    assert torn == []


def test_dask_stores_into_an_open_version(child: VoxelView, voxels: np.ndarray) -> None:
    data = dask.array.from_array(255 - voxels, chunks=(16, 16, 32))
    dask.array.store(data, child.array(), lock=False, scheduler="threads")
    np.testing.assert_array_equal(child[:], 255 - voxels)


def test_pickled_arrays_only_read(child: VoxelView) -> None:
    again = pickle.loads(pickle.dumps(child.array()))
    np.testing.assert_array_equal(again[:], child[:])
    child[0, 0, 0] = 99
    assert again[0, 0, 0] == 99
    with pytest.raises((DvidzarrError, ValueError), match="read"):
        again[0, 0, 0] = 1
    child.instance.repo.catalog.opener = None
    with pytest.raises(ForbiddenError, match="cannot be pickled"):
        pickle.dumps(child.store())


# --- dask --------------------------------------------------------------------------------------------------------


def test_dask_is_lazy_and_equal(child: VoxelView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_BLOCK_BYTES", 16 * 16 * 32)
    lazy = child.dask()
    assert lazy.shape == SHAPE
    assert lazy.dtype == np.uint8
    assert isinstance(lazy._meta, np.ndarray)
    assert all(size % 16 == 0 for axis in lazy.chunks for size in axis[:-1])
    assert lazy.npartitions > 4
    views = [value for value in dict(lazy.__dask_graph__()).values() if "LazyVoxels" in repr(value)]
    assert sum(isinstance(getattr(value, "value", value), LazyVoxels) for value in views) == 1
    expected = child[:]
    for scheduler in ("threads", "sync"):
        np.testing.assert_array_equal(lazy.compute(scheduler=scheduler), expected)
    for index in (
        np.s_[3:17, ::-3, 7],
        np.s_[-1, [4, 2, 29], 1:40:13],
        np.s_[..., None, 5],
        np.s_[:, 9:9],
        np.s_[5:2:-1, -4, ::2],
    ):
        np.testing.assert_array_equal(lazy[index].compute(scheduler="sync"), expected[index])
    assert float(lazy.mean().compute()) == pytest.approx(expected.mean())


slices = st.builds(
    slice,
    *[st.none() | st.integers(-12, 12)] * 2,
    st.none() | st.integers(-4, 4).filter(lambda step: step != 0),
)


class FakeView:
    """An array in memory in place of a view."""

    def __init__(self, voxels: np.ndarray) -> None:
        self.voxels = voxels

    def read(self, box: Box) -> np.ndarray:
        return self.voxels[tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))]


@given(st.tuples(*[slices | st.integers(-3, 2)] * 3))
def test_basic_indexing_is_numpys(index: tuple[slice | int, ...]) -> None:
    voxels = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    lazy = LazyVoxels(FakeView(voxels), voxels.shape, voxels.dtype)  # type: ignore[arg-type]
    np.testing.assert_array_equal(lazy[index], voxels[index])


@given(*[st.tuples(*[st.integers(1, top)] * 3) for top in (4000, 200)], st.sampled_from([1, 2, 8]))
@settings(max_examples=200)
def test_blocks_are_whole_chunks_of_bounded_size(
    shape: tuple[int, int, int], grid: tuple[int, int, int], itemsize: int
) -> None:
    block = block_shape(shape, grid, itemsize)
    sizes = [min(a, b) for a, b in zip(block, shape, strict=True)]
    assert all(a % c == 0 or a >= b for a, b, c in zip(block, shape, grid, strict=True))
    limit = max(64 << 20, int(np.prod([min(c, b) for b, c in zip(shape, grid, strict=True)])) * itemsize)
    assert int(np.prod(sizes)) * itemsize <= limit
    if block != shape:
        assert int(np.prod(shape)) * itemsize > 64 << 20


def test_names_are_stable_for_what_cannot_change(root: VoxelView, child: VoxelView, repo: Repo) -> None:
    assert root.dask().name == root.dask().name
    assert child.dask().name != child.dask().name
    repo.commit(child.version)
    assert child.dask().name == child.dask().name
    assert child.dask().name != root.dask().name


def test_dask_on_processes(child: VoxelView) -> None:
    lazy = child.dask().rechunk((10, 30, 45))
    with dask.config.set(scheduler="processes", num_workers=2):
        np.testing.assert_array_equal(lazy.compute(), child[:])


def test_dask_on_a_cluster(root: VoxelView, child: VoxelView) -> None:
    options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        for view in (root, child):
            total = client.compute(view.dask().astype("u8").sum()).result(timeout=300)
            assert total == view[:].sum(dtype="u8")
            lazy = dask.array.from_zarr(view.array())
            np.testing.assert_array_equal(client.compute(lazy).result(timeout=300), view[:])
        child[0:3, 0:3, 0:3] = 1  # workers read on
        np.testing.assert_array_equal(client.compute(child.xarray().data).result(timeout=300), child[:])


# --- xarray ------------------------------------------------------------------------------------------------------


def test_xarray(child: VoxelView) -> None:
    data = child.xarray()
    assert isinstance(data.data, dask.array.Array)
    assert data.dims == ("z", "y", "x")
    assert data.name == "gray"
    assert data.attrs["version"] == child.version.uuid
    assert data.attrs["name"] == "gray"
    assert data.attrs["units"] == ["microns", "nanometers", "nanometers"]
    for axis, size, unit in (("z", 50.0, "microns"), ("y", 4.6, "nanometers"), ("x", 4.6, "nanometers")):
        assert data.coords[axis].dtype == np.float64
        np.testing.assert_array_equal(data.coords[axis].values, np.arange(data.sizes[axis]) * size)
        assert data.coords[axis].attrs["units"] == unit
    np.testing.assert_array_equal(data.values, child[:])
    part = data.sel(z=slice(100, 250), x=4.6 * 7)
    np.testing.assert_array_equal(part.values, child[2:6, :, 7].reshape(part.shape))


def test_xarray_opens_the_store(child: VoxelView) -> None:
    with xarray.open_zarr(child.store(), consolidated=False, zarr_format=3) as data:
        np.testing.assert_array_equal(data["0"].values, child[:])
        assert data["0"].dims == ("z", "y", "x")


def test_a_chunk_at_the_lowest_coordinate_outlives_its_commit(repo: Repo) -> None:
    gray = repo.create_instance("uint8blk", "far", {"BlockSize": "8,8,8"})
    view = gray.at()
    coords = np.array([(-CHUNK_LIMIT, 0, -CHUNK_LIMIT), (0, 0, 0)])
    view.write_blocks(coords, np.full((2, 8, 8, 8), 7, np.uint8))
    repo.commit(view.version)
    repo.context.housekeeper.settle(120)
    assert view.instance.dataset.finished
    for z, y, x in (8 * coords).tolist():
        assert (view.read(Box((z, y, x), (z + 8, y + 8, x + 8))) == 7).all()


def test_lz4_blocks_of_chunks_that_others_encoded(repo: Repo) -> None:
    """Bytes that came through Zarr are not those that this package makes of the same voxels."""
    gray = repo.create_instance("uint8blk", "foreign", {"BlockSize": "64,64,64"})
    view = gray.at()
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 64), np.uint8)
    view[0:64, 0:64, 0:64] = 1
    view.array()[0:64, 0:64, 0:64] = noise
    reader = view.reader(Box((0, 0, 0), (64, 64, 64)))
    repo.commit(view.version)
    repo.context.housekeeper.settle(120)
    rewrites = Path(repo.url) / gray.prefix / "rewrites"
    shutil.rmtree(rewrites)  # as after the grace period
    for blocks in (reader.lz4_blocks(), view.lz4_blocks(ChunkSpan((0, 0, 0), (1, 1, 1)))):
        ((coord, block),) = blocks
        assert coord == (0, 0, 0)
        assert block is not None
        assert lz4_decode(block, noise.nbytes) == noise.tobytes()


@pytest.mark.parametrize("shuffle", [blosc.NOSHUFFLE, blosc.SHUFFLE, blosc.BITSHUFFLE])
async def test_lz4_blocks_of_shuffled_chunks(repo: Repo, shuffle: int) -> None:
    """Zarr takes a chunk as its writer made it: blocks of it must be the voxels all the same."""
    gray = repo.create_instance("uint8blk", f"shuffled{shuffle}", {"BlockSize": "64,64,64"})
    view = gray.at()
    voxels = np.random.default_rng(6).integers(0, 4, (64, 64, 64), np.uint8)
    view[0:64, 0:64, 0:64] = 0
    body = blosc.compress(voxels, b"lz4", 5, shuffle, voxels.nbytes)
    encoded = body + struct.pack("<I", crc32c(body))
    await view.store().set("0/c/0/0/0", default_buffer_prototype().buffer.from_bytes(encoded))
    assert (view.read(Box((0, 0, 0), (64, 64, 64))) == voxels).all()
    ((_, block),) = view.lz4_blocks(ChunkSpan((0, 0, 0), (1, 1, 1)))
    assert block is not None
    assert lz4_decode(block, voxels.nbytes) == voxels.tobytes()


def test_conflicts_do_not_count_for_the_shape(repo: Repo) -> None:
    gray = repo.create_instance("uint8blk", "merged", {"BlockSize": "8,8,8"})
    block = np.ones((1, 8, 8, 8), np.uint8)
    gray.at().write_blocks(np.array([(0, 0, 0)]), block)
    root = repo.dag.root
    repo.commit(root)
    sides = [repo.new_version(root), repo.branch(root, "other")]
    for value, side in enumerate(sides, 2):
        gray.at(side).write_blocks(np.array([(0, 0, 50)]), value * block)
        repo.commit(side)
    merged = gray.at(repo.merge(sides))
    assert merged.shape == (8, 8, 8)
    assert gray.at(sides[1]).shape == (8, 8, 51 * 8)
