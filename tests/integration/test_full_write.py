"""Locked versions that an operator may write: who may, what follows, and what lies on the disk afterwards."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zarr

import dvidzarr
from dvidzarr.core.errors import InvalidInputError, VersionLockedError
from dvidzarr.core.lineage import Lineage
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.labelblk import model
from dvidzarr.datatypes.labelblk.downsample import downsampled
from dvidzarr.repo import overlays
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage import documents
from dvidzarr.storage.documents import Documents
from dvidzarr.storage.listings import KeyList
from dvidzarr.storage.merging import Versions, contested
from tests.integration.server_process import served

ADMIN = {"admintoken": "secret"}
SETTINGS = Settings.load(env={}, overrides={"storage.rewrite_grace_s": 0})


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlays, "_AMENDED_S", 0.01)


@contextmanager
def opened(store: Path, mode: str = "w", *, full_write: bool = True) -> Iterator[Catalog]:
    with dvidzarr.open(store, mode, SETTINGS, full_write=full_write) as catalog:
        yield catalog


def gray_repo(catalog: Catalog) -> Any:  # noqa: ANN401 - a uint8blk instance
    repo = catalog.create_repo(root="a" * 32)
    gray = repo.create_instance("uint8blk", "gray", {"BlockSize": "8,8,8"})
    gray.at()[0:8, 0:8, 0:16] = 1
    repo.commit(repo.root)
    return gray


def settle(catalog: Catalog) -> None:
    """Wait until everything that is locked is finished: while somebody writes, that is put off again and again."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        catalog.context.housekeeper.settle(120)
        left = [
            instance
            for repo in catalog.repos
            for instance in repo.instances.values()
            if instance.opened and instance.versioned
            if any(repo.dag.versions[ordinal].locked for ordinal in tuple(instance.dataset.unfinished))
        ]
        if not left:
            catalog.context.housekeeper.settle(120)
            return
        time.sleep(0.01)
    raise AssertionError(f"{left} are not finished")


def state_of(store: Path) -> str:
    group = next(iter(store.glob("repos/*/data/*/versions/*/zarr.json"))).parent
    return str(zarr.open_group(str(group), mode="r").attrs["dvidzarr"]["state"])  # type: ignore[index,call-overload]


def test_a_locked_version_takes_writes_and_is_finished_again(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with opened(store) as catalog:
        gray = gray_repo(catalog)
        child = gray.repo.new_version(gray.repo.root)
        settle(catalog)
        root = gray.at(gray.repo.dag.root)
        root[0:8, 0:8, 0:8] = 7
        root[8:16, 0:8, 0:8] = 8
        assert state_of(store) == "open"
        assert gray.at(child)[0:16, 0, 0].tolist() == [7] * 8 + [8] * 8
        assert root.shape == (16, 8, 16)
        assert not root.store().read_only
        settle(catalog)
        assert state_of(store) == "open"
        assert not list(store.glob("repos/*/data/*/rewrites/*/*"))
    with opened(store, full_write=False) as catalog:
        settle(catalog)
        gray = catalog.repos[0].instance("gray")
        with pytest.raises(VersionLockedError):
            gray.at(catalog.repos[0].dag.root)[0:8, 0:8, 0:8] = 9
        for view in (gray.at(catalog.repos[0].dag.root), gray.at()):
            assert view[0:16, 0, 0].tolist() == [7] * 8 + [8] * 8
        assert [f for f in catalog.verify(deep=True) if f.severity != "note"] == []
    assert state_of(store) == "locked"
    plain = zarr.open_array(next(iter(store.glob("repos/*/data/*/versions/*/0"))), mode="r")
    assert plain[0:16, 0, 0].tolist() == [7] * 8 + [8] * 8  # type: ignore[union-attr]


def test_a_follower_that_knows_nothing_of_it_never_takes_such_a_version_for_immutable(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as catalog:
        gray = gray_repo(catalog)
        root = gray.repo.dag.root
        child = gray.repo.commit(gray.repo.new_version(root))
        with opened(tmp_path / "store", "r", full_write=False) as reader:
            seen = reader.repos[0].instance("gray")
            names = [seen.at(version).dask().name for version in (root, child)]
            assert [seen.at(version).dask().name for version in (root, child)] == names
            assert seen.at(child).shape == (8, 8, 16)
            gray.at(root)[16:24, 0:8, 0:8] = 5
            assert seen.at(child).shape == (24, 8, 16)
            assert int(seen.at(child).dask()[20, 0, 0].compute()) == 5
            assert not {seen.at(version).dask().name for version in (root, child)} & set(names)
            assert not any(seen.sealed(version) for version in (root, child))


def test_nobody_but_who_may_overrule_the_lock(tmp_path: Path) -> None:
    """A write that was let in while the version was open comes too late when it is locked meanwhile."""
    with opened(tmp_path / "store") as catalog:
        gray = gray_repo(catalog)
        view = gray.at(gray.repo.dag.root)
        view.overrule = False
        region = gray.repo.create_instance("roi", "region", {"BlockSize": "8,8,8"}, gray.repo.root)
        for refused in (view, view.masked(region.at())):
            with pytest.raises(VersionLockedError):
                refused[0:8, 0:8, 0:8] = 9
        with pytest.raises(VersionLockedError):
            gray.repo.set_note(gray.repo.root, "no", overrule=False)
        assert not gray.repo.state.amended


def test_writes_while_the_version_is_being_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlays, "_AMENDED_S", 0)
    with opened(tmp_path / "store") as catalog:
        gray = gray_repo(catalog)
        view = gray.at(gray.repo.dag.root)

        def write(column: int) -> None:
            for value in range(40):
                view[0:8, 8 * column : 8 * column + 8, 0:8] = value
                assert int(view[0, 8 * column, 0]) == value

        threads = [threading.Thread(target=write, args=(column,)) for column in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (view[0:8, 0:32, 0:8] == 39).all()
        settle(catalog)
        assert (view[0:8, 0:32, 0:8] == 39).all()
        assert [f for f in catalog.verify(deep=True) if f.severity != "note"] == []
    with opened(tmp_path / "store", full_write=False) as catalog:
        assert (catalog.repos[0].instance("gray").at("a" * 32)[0:8, 0:32, 0:8] == 39).all()


def test_what_merges_show_is_worked_out_again(tmp_path: Path) -> None:
    with opened(tmp_path / "store") as catalog:
        gray = gray_repo(catalog)
        repo, notes = gray.repo, gray.repo.create_instance("keyvalue", "notes", version=gray.repo.root)
        one, other = repo.branch(repo.root, "one"), repo.branch(repo.root, "other")
        for version in (one, other):
            repo.commit(version)
        merge = repo.commit(repo.merge([one, other]))
        last = repo.new_version(merge)
        assert (int(gray.at(last)[0, 0, 0]), list(notes.at(last))) == (1, [])
        gray.at(other)[0:8, 0:8, 0:8] = 2
        notes.at(other)["key"] = b"other"
        assert (int(gray.at(last)[0, 0, 0]), dict(notes.at(last))) == (2, {"key": b"other"})
        gray.at(one)[0:8, 0:8, 0:8] = 3
        notes.at(one)["key"] = b"one"
        assert (int(gray.at(last)[0, 0, 0]), dict(notes.at(last))) == (0, {})  # a conflict


def merged_notes(repo: Any, notes: Any, *names: str) -> Any:  # noqa: ANN401 - a version
    """Return a locked merge of locked versions, one of each name, that wrote a key each: all but the first are derived."""
    sides = [repo.branch(repo.root, name) for name in names]
    for version in sides:
        notes.at(version)[version.branch[:1]] = version.branch.encode()
        repo.commit(version)
    return repo.commit(repo.merge(sides))


def test_a_write_just_before_keys_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the merge shows was there and is dropped, before the list takes notes of what is written."""
    collect = Documents._collect

    def write_and_collect(index: Documents, lineage: Lineage) -> KeyList | None:
        if "new" not in notes.at(":b"):
            notes.at(":b")["new"] = b"1"
        return collect(index, lineage)

    with opened(tmp_path / "store") as catalog:
        repo = gray_repo(catalog).repo
        notes = repo.create_instance("keyvalue", "notes", version=repo.root)
        last = notes.at(repo.new_version(merged_notes(repo, notes, "a", "b")))
        assert "b" in last
        monkeypatch.setattr(Documents, "_collect", write_and_collect)
        assert list(last) == ["a", "b", "new"]
        assert list(last) == ["a", "b", "new"]


def test_a_write_while_conflicts_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the merges show is dropped; what they disagree in is found all the same."""

    def write(versions: Versions, parents: Sequence[int]) -> frozenset[int]:
        if list(parents) == [merge.ordinal for merge in merges] and "new" not in notes.at(repo.root):
            notes.at(repo.root)["new"] = b"1"
        return contested(versions, parents)

    with opened(tmp_path / "store") as catalog:
        repo = gray_repo(catalog).repo
        notes = repo.create_instance("keyvalue", "notes", version=repo.root)
        merges = [merged_notes(repo, notes, *names) for names in (("a", "k1"), ("c", "k2"))]
        monkeypatch.setattr(documents, "contested", write)
        ((instance, found),) = [(each.instance, each.keys) for each in repo.conflicts(merges) if each.keys]
        assert (instance, [key for key, _ in found]) == ("notes", [b"k"])


def labels_repo(catalog: Catalog) -> tuple[Any, Any]:
    repo = catalog.create_repo(root="b" * 32)
    seg, half = (repo.create_instance("labelblk", name, {"BlockSize": "8,8,8"}) for name in ("seg", "half"))
    half.set_syncs(["seg"])
    seg.at()[0:8, 0:8, 0:8] = 1
    repo.commit(repo.root)
    return seg, half


def test_followers_of_labels_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(512, dtype=np.uint64).reshape(8, 8, 8)
    with opened(tmp_path / "store") as catalog:
        seg, half = labels_repo(catalog)
        seg.at("b" * 32)[0:8, 0:8, 0:8] = labels
        assert np.array_equal(half.at("b" * 32)[0:4, 0:4, 0:4], downsampled(labels))
        settle(catalog)
        # it ends after the labels were recorded, before their follower
        with monkeypatch.context() as patch:
            patch.setattr(model, "follow", lambda *_args, **_more: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                seg.at("b" * 32)[0:8, 0:8, 0:8] = labels[::-1]
    with opened(tmp_path / "store", full_write=False) as catalog:
        half = catalog.repos[0].instance("half")
        _ = half.dataset
        settle(catalog)
        assert np.array_equal(half.at("b" * 32)[0:4, 0:4, 0:4], downsampled(labels[::-1]))
        assert [f for f in catalog.verify(deep=True) if f.severity != "note"] == []
        for instance in catalog.repos[0].instances.values():
            assert not instance.dataset.arrays[0].postings.written_by(0)[1]["location"].any()


def test_over_http_administrators_only(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with opened(store, full_write=False) as catalog:
        root = gray_repo(catalog).repo.root
    block = bytes([9]) * 512
    raw = f"/api/node/{root}/gray/raw/0_1_2/8_8_8/0_0_0"
    with (
        served(store, "--full-write", DVID_ADMIN_TOKEN="secret") as server,
        httpx.Client(base_url=server.url, timeout=120) as http,
    ):
        deadline = time.monotonic() + 120
        while (
            "locked versions may be written" not in server.log.read_text()
        ):  # its thread writes now and then
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert http.get("/api/server/info").json()["Mode"] == "allow writes on committed nodes"
        assert "dvidzarr_full_write 1.0" in http.get("/metrics").text
        for nobody in ({}, {"admintoken": "wrong"}):
            assert http.post(raw, params=nobody, content=block).status_code == 400
            assert http.post(f"/api/node/{root}/note", params=nobody, json={"note": "x"}).status_code == 400
        assert http.get(raw).content == bytes([1]) * 512
        assert http.post(raw, params=ADMIN, content=block).status_code == 200
        assert http.get(raw).content == block
        assert http.post(f"/api/node/{root}/nothing", params=ADMIN).status_code == 404
    with served(store, DVID_ADMIN_TOKEN="secret") as server, httpx.Client(base_url=server.url) as http:
        assert "Mode" not in http.get("/api/server/info").json()
        assert "dvidzarr_full_write 0.0" in http.get("/metrics").text
        assert http.post(raw, params=ADMIN, content=block).status_code == 400
        assert http.get(raw).content == block


def test_read_only_excludes_it() -> None:
    with pytest.raises(InvalidInputError, match="exclude"):
        Settings.load(env={}, overrides={"server.read_only": True, "server.full_write": True})


def test_unversioned_data_are_never_finished(tmp_path: Path) -> None:
    """Their one state is nobody's locked version: whoever writes them holds no gate that finishing waits for."""
    with opened(tmp_path / "store") as catalog:
        gray = gray_repo(catalog)
        repo = gray.repo
        other = repo.create_instance(
            "uint8blk", "other", {"BlockSize": "8,8,8", "versioned": "false"}, repo.new_version(repo.root)
        )
        for value in (1, 2):
            other.at()[0:8, 0:8, 0:8] = value
        gray.at(repo.dag.root)[0:8, 0:8, 0:8] = 7
        repo.commit(repo.dag.head(""))
        settle(catalog)
        assert gray.dataset.finished
        assert other.dataset.finished == set()
        assert (other.at()[0:8, 0:8, 0:8] == 2).all()
