"""keyvalue as Python: a mapping per version, batches, large values, other processes."""

import base64
import json
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dvidzarr
from dvidzarr.core.errors import (
    CorruptionError,
    ForbiddenError,
    InvalidInputError,
    NoSpaceError,
    VersionLockedError,
)
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.keyvalue.model import MAX_KEY, KeyValueView
from dvidzarr.datatypes.keyvalue.mutations import encoded_by_version
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage import dataset as dataset_module
from dvidzarr.storage import documentindex
from dvidzarr.storage.frames import Kind
from dvidzarr.storage.log import LocalLog
from tests.integration.damaged_store import flip


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with dvidzarr.open(tmp_path / "store") as opened:
        yield opened


def new_view(catalog: Catalog, **config: object) -> KeyValueView:
    repo = catalog.create_repo("test")
    repo.create_instance("keyvalue", "kv", config)
    return view_of(catalog)


def view_of(catalog: Catalog, ref: str | None = None) -> KeyValueView:
    view = catalog.repos[0].instance("kv").at(ref)
    assert isinstance(view, KeyValueView)
    return view


def mutations(view: KeyValueView) -> list[dict[str, Any]]:
    pieces = encoded_by_version(view.instance, [view.version])
    return json.loads(b"[%s]" % b"".join(pieces))


def test_it_is_a_mapping(catalog: Catalog) -> None:
    view = new_view(catalog)
    view["b"], view["a"], view["é"] = b"1", b"", b"3"
    assert list(view) == ["a", "b", "é"]
    assert (view["a"], view.get("b"), view.get("none")) == (b"", b"1", None)
    assert dict(view.items()) == {"a": b"", "b": b"1", "é": b"3"}
    assert ("a" in view, "x" in view, 3 in view, len(view)) == (True, False, False, 3)
    assert view.pop("b") == b"1"
    with pytest.raises(KeyError):
        del view["b"]
    with pytest.raises(KeyError):
        view["b"]
    assert view.setdefault("c", b"4") == b"4"
    view.clear()
    assert list(view) == []


def test_ranges_are_inclusive_and_in_the_order_of_bytes(catalog: Catalog) -> None:
    view = new_view(catalog)
    view.update({key: key.encode() for key in ("10", "2", "Z", "a", "my2ndkey", "mykey")})
    assert view.between("2", "a") == ["2", "Z", "a"]
    assert view.between("b", "a") == []
    assert list(view.range("my", "zebra")) == [("my2ndkey", b"my2ndkey"), ("mykey", b"mykey")]
    assert [key for key, _ in view.range()] == ["10", "2", "Z", "a", "my2ndkey", "mykey"]
    assert view.get_many(["a", "none", "2"]) == {"a": b"a", "2": b"2"}


@pytest.mark.parametrize("key", ["", "a\0b", "x" * (MAX_KEY + 1), "\ud800"])
def test_keys_that_cannot_be(catalog: Catalog, key: str) -> None:
    view = new_view(catalog)
    with pytest.raises(InvalidInputError, match="no key"):
        view[key] = b"1"
    with pytest.raises(InvalidInputError, match="no key"):
        view.update({"good": b"1", key: b"2"})
    assert list(view) == []


@pytest.mark.parametrize("size", [0, 1, 1024, 1025, 65_536, 65_537, 3_000_000])
def test_values_of_every_size(tmp_path: Path, size: int) -> None:
    value = os.urandom(size)
    with dvidzarr.open(tmp_path / "store") as catalog:
        view = new_view(catalog)
        view["k"] = value
        view.update({"one": value, "two": b"x" + value})
        view.put("pieces", [value[:10], value[10:]])
        assert view.get_slice("k", size // 3, size // 2) == value[size // 3 : size // 2]
    shutil.rmtree(tmp_path / "store/cache")
    with dvidzarr.open(tmp_path / "store") as catalog:
        view = view_of(catalog)
        assert dict(view) == {"k": value, "one": value, "two": b"x" + value, "pieces": value}
        assert [finding for finding in catalog.verify(deep=True) if finding.severity != "note"] == []


def test_a_blob_that_was_not_finished_is_gone(catalog: Catalog) -> None:
    view = new_view(catalog)

    def broken() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise OSError("the source failed")

    with pytest.raises(OSError, match="the source failed"):
        view.put("k", broken())
    assert "k" not in view
    assert list(catalog.context.backend.keys(f"{view.instance.prefix}/blobs")) == []


def test_a_damaged_blob_is_not_served(catalog: Catalog) -> None:
    view = new_view(catalog)
    view["k"] = b"x" * 2_500_000
    (key,) = catalog.context.backend.keys(f"{view.instance.prefix}/blobs")
    flip(Path(catalog.url) / key, 1_000_000)
    with pytest.raises(CorruptionError):
        view["k"]
    place = view.find(b"k")
    assert place is not None
    pieces = view.read_pieces(b"k", place)
    with pytest.raises(CorruptionError):
        b"".join(pieces)


def test_versions_tombstones_and_locks(catalog: Catalog) -> None:
    root = new_view(catalog)
    repo = catalog.repos[0]
    root["k"], root["gone"] = b"A", b"1"
    repo.commit(root.version)
    with pytest.raises(VersionLockedError):
        root["k"] = b"B"
    child = view_of(catalog, repo.new_version(root.version).uuid)
    assert list(child) == ["gone", "k"]
    child["k"] = b"B"
    child.remove(["gone", "never"])
    assert (root["k"], child["k"], list(child), list(root)) == (b"A", b"B", ["k"], ["gone", "k"])
    child["gone"] = b"2"
    assert (child["gone"], root["gone"]) == (b"2", b"1")


def test_conflicts_read_as_absent_until_they_are_written(catalog: Catalog) -> None:
    root = new_view(catalog)
    repo = catalog.repos[0]
    root["k"], root["calm"] = b"0", b"1"
    repo.commit(root.version)
    ends = []
    for name in ("left", "right"):
        version = repo.branch(root.version, name)
        view_of(catalog, version.uuid)["k"] = name.encode()
        ends.append(repo.commit(version))
    merged = view_of(catalog, repo.merge(ends).uuid)
    assert dict(merged) == {"calm": b"1"}
    merged["k"] = b"both"
    assert dict(merged) == {"calm": b"1", "k": b"both"}


def test_unversioned_data_are_the_same_everywhere(catalog: Catalog) -> None:
    root = new_view(catalog, versioned="false")
    repo = catalog.repos[0]
    repo.commit(root.version)
    child = view_of(catalog, repo.new_version(root.version).uuid)
    child["a"] = b"1"
    root["b"] = b"2"
    assert dict(root) == dict(child) == {"a": b"1", "b": b"2"}
    del root["a"]
    assert list(child) == ["b"]
    named = [record["UUID"] for record in mutations(child)]
    assert named == [child.version.uuid]


def test_a_batch_is_one_record_and_is_seen_whole(tmp_path: Path, catalog: Catalog) -> None:
    view = new_view(catalog)
    keys = [f"{number:04d}" for number in range(500)]
    before = view.instance.dataset.log.tail.sequence
    view.put_many(dict.fromkeys(keys, b"0"), Author("me", "test"))
    assert view.instance.dataset.log.tail.sequence == before + 1
    stop, mixed = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            seen = {value for _, value in view.range()}
            if len(seen) != 1:
                mixed.append(seen)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(30):
        view.update(dict.fromkeys(keys, b"%d" % number))
    stop.set()
    watcher.join()
    assert mixed == []


def test_the_mutation_record(catalog: Catalog) -> None:
    root = new_view(catalog)
    repo = catalog.repos[0]
    root["a"] = b"1234"
    root.update({"b": b"12", "c": b"x" * 100_000})
    repo.commit(root.version)
    child = view_of(catalog, repo.new_version(root.version).uuid)
    del child["a"]
    found = mutations(root)
    assert [(each["Action"], each["Key"], each["Bytes"]) for each in found] == [
        ("postkv", "a", 4),
        ("postkv", "b", 2),
        ("postkv", "c", 100_000),
    ]
    assert {each["UUID"] for each in found} == {root.version.uuid}
    (record,) = mutations(child)
    assert list(record) == ["Action", "Key", "Timestamp", "UUID"]


def test_others_follow_and_views_pickle(tmp_path: Path, catalog: Catalog) -> None:
    view = new_view(catalog)
    view["a"] = b"1"
    with dvidzarr.open(tmp_path / "store", "r") as reader:
        other = view_of(reader)
        assert dict(other) == {"a": b"1"}
        view["b"] = b"x" * 100_000
        view.remove(["a"])
        assert dict(other) == {"b": b"x" * 100_000}
        with pytest.raises(ForbiddenError):
            other["c"] = b"1"
    again = pickle.loads(pickle.dumps(view))
    assert dict(again) == dict(view)
    with pytest.raises(ForbiddenError):
        again["c"] = b"1"
    again.instance.repo.catalog.close()


def test_tags_survive(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        instance = new_view(catalog, Tags="a=1,b=2").instance
        instance.set_tags({"b": "3"})
        assert instance.tags == {"a": "1", "b": "3"}
    with dvidzarr.open(tmp_path / "store") as catalog:
        instance = view_of(catalog).instance
        assert instance.tags == {"a": "1", "b": "3"}
        instance.set_tags({}, replace=True)
        assert instance.tags == {}


@pytest.mark.parametrize("durability", ["full", "fast"])
def test_writers_in_many_threads(tmp_path: Path, durability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "_CACHE_EVERY", 20_000)
    settings = Settings.load(env={}, overrides={"storage.durability": durability})
    with dvidzarr.open(tmp_path / "store", settings=settings) as catalog:
        view = new_view(catalog)

        def work(thread: int) -> None:
            for number in range(60):
                view[f"{thread}-{number % 20}"] = b"%d" % number
                if number % 7 == 0:
                    view.remove([f"{thread}-0"])
                if number % 10 == 0:
                    list(view)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = dict(view)
    want = {f"{thread}-{number % 20}": b"%d" % number for thread in range(6) for number in range(40, 60)}
    want = {key: value for key, value in want.items() if not key.endswith("-0")}
    assert {key: value for key, value in found.items() if not key.endswith("-0")} == want
    with dvidzarr.open(tmp_path / "store", "r") as catalog:
        assert dict(view_of(catalog)) == found


def test_blobs_are_kept_once_and_found_again(tmp_path: Path) -> None:
    large = os.urandom(300_000)
    with dvidzarr.open(tmp_path / "store") as catalog:
        blobs = f"{catalog.blobs.dataset.prefix}/blobs"
        small = catalog.blobs.put(b"hello")
        assert small == "8UtYSGSD2U9wgDh5jClpfw=="
        references = []
        for _ in range(2):
            writer = catalog.blobs.writer()
            writer.write(large[:100_000])
            writer.write(large[100_000:])
            references.append(writer.finish())
            writer.close()
        assert references == [catalog.blobs.put(large)] * 2
        assert len(list(catalog.context.backend.keys(blobs))) == 1
        unfinished = catalog.blobs.writer()
        unfinished.write(b"x")
        unfinished.close()
        assert len(list(catalog.context.backend.keys(blobs))) == 1
    with dvidzarr.open(tmp_path / "store", "r") as catalog:
        found = catalog.blobs.get(base64.urlsafe_b64decode(references[0]))
        assert found is not None
        assert (found[0], b"".join(found[1])) == (300_000, large)
        assert catalog.blobs.get(bytes(16)) is None
        with pytest.raises(ForbiddenError):
            catalog.blobs.put(b"x")
        assert [each for each in catalog.verify(deep=True) if each.severity == "error"] == []
        (key,) = catalog.context.backend.keys(blobs)
        (Path(catalog.url) / key).write_bytes(bytes(300_000))
        (finding,) = (each for each in catalog.verify(deep=True) if each.severity == "error")
        assert "is not the one recorded" in finding.message


def test_blobs_that_could_not_be_made_writable_are_so_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint that begins durability `fast` is missing after a failure: what is acknowledged without it is lost."""
    fast = Settings.load(env={}, overrides={"storage.durability": "fast", "storage.flush_interval_s": 1000})
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        reference = catalog.blobs.put(b"before")
    with dvidzarr.open(tmp_path / "store", "a", fast) as catalog:
        assert catalog.blobs.get(base64.urlsafe_b64decode(reference)) is not None  # open, and not writable
        with monkeypatch.context() as patch:
            patch.setattr(LocalLog, "flush", out_of_room)
            with pytest.raises(NoSpaceError):
                catalog.blobs.put(b"refused")
        catalog.blobs.put(b"taken")
        kinds = [entry.kind for entry in catalog.blobs.dataset.log.records()]
        assert kinds[-2:] == [Kind.CHECKPOINT, Kind.PUT]
        assert catalog.blobs.get(base64.urlsafe_b64decode(reference)) is not None


def out_of_room(log: LocalLog) -> None:
    raise NoSpaceError(f"{log.prefix}: no space left on the device")


def test_the_index_is_written_in_the_background(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    move = documentindex.DocumentIndex._move

    def note(index: documentindex.DocumentIndex, keys: list[bytes]) -> None:
        threads.append(threading.current_thread().name)
        move(index, keys)

    monkeypatch.setattr(documentindex.DocumentIndex, "_move", note)
    monkeypatch.setattr(documentindex, "_PENDING", 300)
    view = new_view(catalog)
    for number in range(400):
        view[f"{number:04d}"] = b"x"
    assert catalog.context.housekeeper.settle(120)
    assert set(threads) == {"dvidzarr-housekeeper"}
    assert len(view) == 400
