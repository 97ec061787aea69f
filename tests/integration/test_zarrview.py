"""The Zarr store of a version: zarr's own tests where all keys are documents, and the chunks of declared arrays."""

import asyncio
import pickle
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu
from zarr.testing.stateful import ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests

import dvidzarr
from dvidzarr.core.errors import (
    CorruptionError,
    DvidzarrError,
    FormatError,
    InvalidInputError,
    VersionLockedError,
)
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.voxels.arrays import VoxelSource, zarr_store
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage.backend import Part
from dvidzarr.storage.zarrview import VersionedStore

CONFIG = {"BlockSize": "8,8,8", "VoxelSize": "4,4,40"}
RANDOM = np.random.default_rng(1)


def new_view(catalog: Catalog) -> VoxelView:
    view = catalog.create_repo().create_instance("uint8blk", "gray", CONFIG, catalog.repos[0].dag.root).at()
    assert isinstance(view, VoxelView)
    return view


def buffer(data: bytes) -> Buffer:
    return cpu.Buffer.from_bytes(data)


async def listed(names: AsyncIterator[str]) -> list[str]:
    return sorted([name async for name in names])


def child_of(view: VoxelView) -> VoxelView:
    repo = view.instance.repo
    repo.commit(view.version)
    return view.instance.at(repo.new_version(view.version))


# --- zarr's own tests --------------------------------------------------------------------------------------------


class TestAsAnyStore(StoreTests[VersionedStore, cpu.Buffer]):
    """Of an instance that declares no arrays."""

    store_cls = VersionedStore
    buffer_cls = cpu.Buffer

    @pytest.fixture
    def store_kwargs(self, catalog: Catalog) -> dict[str, Any]:
        return {"source": VoxelSource(new_view(catalog)), "arrays": {}}

    async def set(self, store: VersionedStore, key: str, value: Buffer) -> None:
        await asyncio.to_thread(store._keys.put, key, value.to_bytes())

    async def get(self, store: VersionedStore, key: str) -> Buffer:
        data = await asyncio.to_thread(store._keys.get, key)
        assert data is not None
        return buffer(data)

    def test_store_repr(self, store: VersionedStore) -> None:
        assert repr(store) == f"VersionedStore('{store}')"
        assert store._source.view.version.id in str(store)

    def test_store_supports_writes(self, store: VersionedStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: VersionedStore) -> None:
        assert store.supports_listing

    async def test_serializable_store(self, store: VersionedStore) -> None:
        """Unlike zarr's: a store from a pickle reads what was written later, and never writes."""
        again = pickle.loads(pickle.dumps(store))
        assert again == store.with_read_only(True)
        assert again.read_only
        await store.set("foo", buffer(b"\1\2"))
        assert (await again.get("foo")).to_bytes() == b"\1\2"
        with pytest.raises(ValueError, match="read-only mode"):
            await again.set("foo", buffer(b"\3"))


def few(examples: int, steps: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=slow
    )


@pytest.mark.parametrize(
    ("machine", "load"),
    [
        (ZarrStoreStateMachine, few(15, 30)),
        (ZarrHierarchyStateMachine, few(10, 20)),
        pytest.param(ZarrStoreStateMachine, few(100, 50), marks=pytest.mark.slow),
        pytest.param(ZarrHierarchyStateMachine, few(60, 40), marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_as_zarrs_state_machines(machine: type, load: settings, tmp_path: Path) -> None:
    fast = Settings.load(env={}, overrides={"storage.durability": "fast"})
    with dvidzarr.open(tmp_path / "store", "w", fast) as catalog:
        store = VersionedStore(VoxelSource(new_view(catalog)), {})
        asyncio.run(store._ensure_open())
        run_state_machine_as_test(lambda: machine(store), settings=load)


# --- chunks of a declared array ----------------------------------------------------------------------------------


@pytest.fixture
def view(catalog: Catalog) -> VoxelView:
    """Two blocks along z, one along y, three along x."""
    view = new_view(catalog)
    view.write(Box((0, 0, 0), (12, 8, 20)), RANDOM.integers(1, 255, (12, 8, 20), np.uint8))
    return view


KEYS = [f"0/c/{z}/0/{x}" for z in (0, 1) for x in (0, 1, 2)]


async def test_keys(view: VoxelView) -> None:
    store = zarr_store(view)
    assert await listed(store.list()) == sorted([*KEYS, "0/zarr.json", "zarr.json"])
    assert await listed(store.list_prefix("0/c/1/")) == KEYS[3:]
    assert await listed(store.list_prefix("0/c/1/0/2")) == KEYS[5:]
    assert await listed(store.list_prefix("1")) == []
    folders = {
        "": ["0", "zarr.json"],
        "0": ["c", "zarr.json"],
        "0/c/": ["0", "1"],
        "0/c/1": ["0"],
        "0/c/1/0": ["0", "1", "2"],
        "0/c/7": [],
        "0/c/x": [],
        "0/c/1/0/2": [],
        "1": [],
    }
    for folder, names in folders.items():
        assert await listed(store.list_dir(folder)) == names
    assert await store.exists("0/c/1/0/2")
    assert not await store.exists("0/c/1/1/2")
    assert await store.get("0/c/9999999999999999999/0/0") is None
    assert await store.getsize("0/zarr.json") == len((await store.get("0/zarr.json")).to_bytes())


async def test_chunks_are_the_objects_themselves(view: VoxelView) -> None:
    store = zarr_store(view)
    instance = view.instance
    for key in KEYS:
        path = Path(instance.repo.url) / instance.prefix / "versions" / view.version.id / key
        data = path.read_bytes()
        assert (await store.get(key)).to_bytes() == data
        assert await store.getsize(key) == len(data)
        assert (await store.get(key, byte_range=RangeByteRequest(3, 9))).to_bytes() == data[3:9]
        assert (await store.get(key, byte_range=OffsetByteRequest(3))).to_bytes() == data[3:]
        assert (await store.get(key, byte_range=SuffixByteRequest(4))).to_bytes() == data[-4:]
        assert (await store.get(key, byte_range=SuffixByteRequest(10**6))).to_bytes() == data


async def test_a_damaged_chunk_is_no_value(view: VoxelView) -> None:
    instance = view.instance
    path = Path(instance.repo.url) / instance.prefix / "versions" / view.version.id / KEYS[1]
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    with pytest.raises(CorruptionError, match=r"chunk \(0, 0, 1\)"):
        await zarr_store(view).get(KEYS[1])
    with pytest.raises(CorruptionError):
        view.array()[:]


async def test_an_object_that_goes_while_it_is_read(view: VoxelView, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewrite in an open version gives back what it supersedes."""
    backend = view.instance.dataset.context.backend
    read, new = backend.read_into, np.full((8, 8, 8), 42, np.uint8)

    def late(key: str, buffer: memoryview, offset: int) -> int | None:
        monkeypatch.setattr(backend, "read_into", read)
        view.write(Box((0, 0, 0), (8, 8, 8)), new)
        backend.discard([Part(key, offset, len(buffer))])
        return read(key, buffer, offset)

    view.write(Box((0, 0, 0), (8, 8, 8)), new - 1)  # from now on it lies apart from its Zarr key
    monkeypatch.setattr(backend, "read_into", late)
    assert (view.array()[:8, :8, :8] == new).all()


async def test_writing_chunks(view: VoxelView) -> None:
    store, child = zarr_store(view), child_of(view)
    there = zarr_store(child)
    await there.set("0/c/0/0/0", await store.get("0/c/1/0/1"))
    np.testing.assert_array_equal(child[0:8, 0:8, 0:8], view[8:16, 0:8, 8:16])
    await there.delete("0/c/0/0/1")
    assert not child[0:8, 0:8, 8:16].any()
    assert await there.get("0/c/0/0/1") is None
    assert "0/c/0/0/1" not in await listed(there.list())
    assert view[0:8, 0:8, 8:16].all()
    assert view.instance.dataset.versions.lineage(child.ordinal).ordinal == child.ordinal


async def test_only_whole_chunks_are_taken(view: VoxelView) -> None:
    store, child = zarr_store(view), zarr_store(child_of(view))
    good = (await store.get(KEYS[0])).to_bytes()
    flipped = bytearray(good)
    flipped[20] ^= 1
    view.instance.repo.context.housekeeper.settle(120)  # a locked version is finished, which is recorded too
    before = view.instance.dataset.log.tail.sequence
    for bad in (b"", b"1234", good[:-1], bytes(flipped), good + b"\0", b"\0" * 600):
        with pytest.raises(FormatError, match=r"0/c/0/0/0: "):
            await child.set(KEYS[0], buffer(bad))
    with pytest.raises(InvalidInputError, match="limit"):
        await child.set("0/c/1048576/0/0", buffer(good))
    assert view.instance.dataset.log.tail.sequence == before


async def test_a_locked_version_is_read_only(view: VoxelView) -> None:
    before = zarr_store(view)
    array = view.array()
    assert not before.read_only
    child_of(view)
    store = zarr_store(view)
    assert store.read_only
    assert before.read_only
    for write in (
        store.set(KEYS[0], await store.get(KEYS[1])),
        store.set("note", buffer(b"x")),
        store.delete(KEYS[0]),
        store.with_read_only(False).delete(KEYS[0]),
    ):
        with pytest.raises(VersionLockedError, match="locked"):
            await write
    with pytest.raises(VersionLockedError, match="locked"):
        await asyncio.to_thread(array.__setitem__, slice(None), 3)
    with pytest.raises(ValueError, match="read-only"):
        zarr.open_array(store, path="0", mode="r+")
    assert view.array().read_only


async def test_a_follower_reads_on_and_never_writes(view: VoxelView) -> None:
    with dvidzarr.open(view.instance.repo.url, "r") as catalog:
        follower = catalog.repos[0].instance("gray").at(view.version.uuid)
        store = zarr_store(follower)
        assert store.read_only
        array = follower.array()
        np.testing.assert_array_equal(array[:], view[:])
        view.write(Box((0, 0, 0), (3, 3, 3)), np.full((3, 3, 3), 9, np.uint8))
        zarr_store(view).set_sync("note", buffer(b"x"))
        np.testing.assert_array_equal(array[:], view[:])
        assert (await store.get("note")).to_bytes() == b"x"
        with pytest.raises(DvidzarrError, match="reading only"):
            await store.delete(KEYS[0])


def test_documents_are_versioned(view: VoxelView) -> None:
    group = zarr.open_group(zarr_store(view))
    extra = group.create_array("marks", shape=(4,), dtype="u2")
    extra[:] = [1, 2, 3, 4]
    child = child_of(view)
    zarr.open_array(zarr_store(child), path="marks", mode="r+")[2:] = 0
    second = zarr.open_group(zarr_store(child))
    second.create_group("more")
    assert sorted(second.keys()) == ["0", "marks", "more"]
    assert sorted(zarr.open_group(zarr_store(view), mode="r").keys()) == ["0", "marks"]
    assert list(zarr.open_array(zarr_store(view), path="marks", mode="r")[:]) == [1, 2, 3, 4]
    assert list(second["marks"][:]) == [1, 2, 0, 0]
    del second["marks"]
    assert sorted(second.keys()) == ["0", "more"]


# --- derived metadata --------------------------------------------------------------------------------------------


def test_attributes_are_added_and_the_derived_ones_stay(view: VoxelView) -> None:
    group, array = zarr.open_group(zarr_store(view)), view.array()
    group.attrs["species"] = "fly"
    array.update_attributes({"stain": ["osmium", {"percent": 1.5}]})
    assert view.array().attrs["stain"] == ["osmium", {"percent": 1.5}]
    child = child_of(view)
    assert zarr.open_group(zarr_store(child)).attrs["species"] == "fly"
    group = zarr.open_group(zarr_store(child))
    group.attrs.put({"lab": "x"})
    shown = dict(zarr.open_group(zarr_store(child)).attrs)
    assert shown.pop("lab") == "x"
    assert shown.keys() == {"ome", "dvidzarr"}
    assert shown["dvidzarr"] == {"state": "open", "version": child.version.uuid, "instance": "gray"}
    assert zarr.open_group(zarr_store(view), mode="r").attrs["dvidzarr"]["state"] == "locked"
    with pytest.raises(InvalidInputError, match="attribute ome cannot be changed"):
        group.attrs["ome"] = {}


async def test_nothing_else_of_the_metadata_changes(view: VoxelView) -> None:
    store = zarr_store(view)
    array = (await store.get("0/zarr.json")).to_bytes()
    group = (await store.get("zarr.json")).to_bytes()
    for key, data, what in (
        ("0/zarr.json", array.replace(b"uint8", b"int8"), "data_type"),
        ("0/zarr.json", array.replace(b'"fill_value": 0', b'"fill_value": 1'), "fill_value"),
        ("0/zarr.json", group, "node_type"),
        ("zarr.json", array, "node_type"),
        ("0/zarr.json", b"{}", "no metadata"),
        ("0/zarr.json", b"\xff", "no metadata"),
        ("0/zarr.json", b"7", "no metadata"),
        ("0/zarr.json", b'{"node_type": "array"}', "no metadata"),
    ):
        with pytest.raises(InvalidInputError, match=what):
            await store.set(key, buffer(data))
    for refused in (store.delete("zarr.json"), store.delete_dir("0"), store.delete_dir("0/"), store.clear()):
        with pytest.raises(InvalidInputError, match="describes a data instance"):
            await refused
    assert set(KEYS) < set(await listed(store.list()))
    await store.set("zarr.json", buffer(group))
    assert (await store.get("zarr.json")).to_bytes() == group


def test_creating_over_the_volume_is_refused(view: VoxelView) -> None:
    with pytest.raises(InvalidInputError, match="describes a data instance"):
        zarr.create_array(zarr_store(view), name="0", shape=(3, 3, 3), dtype="u1", overwrite=True)
    assert view[:].any()


async def test_negative_chunks_are_not_seen(view: VoxelView) -> None:
    before = await listed(zarr_store(view).list())
    view.write(Box((-8, -8, -8), (0, 0, 0)), np.full((8, 8, 8), 5, np.uint8))
    assert await listed(zarr_store(view).list()) == before
    assert await zarr_store(view).get("0/c/-1/-1/-1") is None
    assert view.array().shape == (12, 8, 20)
    assert view.read(Box((-8, -8, -8), (0, 0, 0))).all()


async def test_unversioned_and_merged(catalog: Catalog, view: VoxelView) -> None:
    repo = view.instance.repo
    repo.commit(view.version)
    lines = [view.instance.at(repo.branch(view.version, name)) for name in ("one", "two")]
    for line, x in zip(lines, (0, 8), strict=True):
        line.write(Box((0, 0, x), (8, 8, x + 8)), np.full((8, 8, 8), x + 1, np.uint8))
        repo.commit(line.version)
    merged = view.instance.at(repo.merge([line.version for line in lines]))
    np.testing.assert_array_equal(merged.array()[:], merged[:])
    assert merged.array()[0, 0, 0] == 1
    assert merged.array()[0, 0, 8] == 9
    config = {**CONFIG, "Versioned": "false"}
    loose = repo.create_instance("uint8blk", "loose", config, merged.version).at(view.version.uuid)
    assert not loose.instance.versioned
    loose.write(Box((0, 0, 0), (4, 4, 4)), np.full((4, 4, 4), 6, np.uint8))
    loose.array()[1:, 1:, 1:] = 7
    assert int(loose[0:4, 0:4, 0:4].max()) == 7


def test_first_use_of_documents_from_many_threads(view: VoxelView) -> None:
    store = zarr_store(view)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.set_sync(f"d/{n}", buffer(b"%d" % n)), range(40)))
    assert [store.get_sync(f"d/{n}").to_bytes() for n in range(40)] == [b"%d" % n for n in range(40)]
