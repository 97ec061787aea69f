"""A catalog that follows another process's writes: here both are in one process, which they do not know."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dvidzarr
from dvidzarr.core.errors import NotFoundError
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.repo.base import RepoBase
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.names import VersionNames
from dvidzarr.repo.state import RepoState
from dvidzarr.storage.frames import Entry
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.logreader import LogReader
from dvidzarr.storage.writing import put_documents


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Catalog]:
    settings = Settings.load(env={}, overrides={"storage.durability": "fast"})
    with dvidzarr.open(tmp_path / "store", "w", settings) as catalog:
        yield catalog


@pytest.fixture
def follower(writer: Catalog) -> Iterator[Catalog]:
    with dvidzarr.open(writer.url, "r") as catalog:
        yield catalog


def test_a_deleted_repo_is_gone(writer: Catalog, follower: Catalog) -> None:
    kept, gone = writer.create_repo("kept"), writer.create_repo("gone")
    assert len(follower.repos) == 2
    writer.delete_repo(gone.root)
    with pytest.raises(NotFoundError):
        follower.resolve(gone.root)
    assert [repo.root for repo in follower.repos] == [kept.root]
    assert follower.resolve(":master")[0].root == kept.root  # the only one


def test_a_follower_that_looks_often_while_a_repo_is_deleted_forgets_it(
    writer: Catalog, follower: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks when the record of the deletion is there, and again before the folder has left."""
    gone = writer.create_repo("gone")
    trash = LocalBackend.trash

    def look_first(backend: LocalBackend, prefix: str) -> None:
        for _ in range(2):
            assert follower.repos == ()
            writer.generation.advance()  # as for any other repo
        trash(backend, prefix)

    assert len(follower.repos) == 1
    monkeypatch.setattr(LocalBackend, "trash", look_first)
    writer.delete_repo(gone.root)
    for catalog in (writer, follower):
        with pytest.raises(NotFoundError):
            catalog.resolve(gone.root)


def test_a_repo_made_again_under_the_same_root_is_the_new_one(writer: Catalog, follower: Catalog) -> None:
    root = "a" * 32
    for round_ in range(3):
        made = writer.create_repo(f"number {round_}", root=root)
        for number in range(round_ + 1):
            made.create_instance("keyvalue", f"kv{number}")
        assert [repo.alias for repo in follower.repos] == [f"number {round_}"]
        assert len(follower.repo(root).instances) == round_ + 1
        writer.delete_repo(root)


def test_a_repo_that_takes_long_to_make_is_found(
    writer: Catalog, follower: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder was there for seconds before its first record came."""
    real = LocalBackend.folders

    def at_rest(self: LocalBackend, folder: str) -> int | None:
        return 1  # the time of the folder tells nothing new

    _ = follower.repos
    monkeypatch.setattr(LocalBackend, "changed", at_rest)
    _ = follower.repos
    made = writer.create_repo("slow")
    assert real(writer.context.backend, "repos") != []
    assert follower.resolve(made.root)[1].uuid == made.root


def test_what_an_instance_keeps_beside_its_data_is_followed(writer: Catalog, follower: Catalog) -> None:
    root = writer.create_repo().root
    theirs = writer.repo(root).create_instance("uint8blk", "gray", {"BlockSize": "32,32,32"})
    ours = follower.repo(root).instance("gray")
    assert ours.tags is None
    theirs.set_tags({"stain": "one"})
    assert ours.tags == {"stain": "one"}
    theirs.set_tags({"stain": "two"})
    assert ours.tags == {"stain": "two"}


def test_nothing_is_read_while_nothing_happens(
    writer: Catalog, follower: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking whether something happened asks the memory, not the file system."""
    root = writer.create_repo().root
    writer.repo(root).create_instance("keyvalue", "keys").at().put("a", b"1")  # type: ignore[attr-defined]
    view = follower.repo(root).instance("keys").at()
    assert view.get("a") == b"1"  # type: ignore[attr-defined]

    def refuse(*_: object) -> None:
        raise AssertionError("the file system was asked")

    for name in ("changed", "folders", "size", "get", "keys"):
        monkeypatch.setattr(follower.context.backend, name, refuse)
    assert not follower.behind
    for _ in range(3):
        assert follower.resolve(root)[1].uuid == root
        assert view.get("a") == b"1"  # type: ignore[attr-defined]


def test_the_writer_counts_each_change_once(writer: Catalog, follower: Catalog) -> None:
    """Threads that change repos at the same time never hide a change from a follower that looks in between."""
    repos = [writer.create_repo(f"{number}") for number in range(4)]

    def change(which: int) -> None:
        for count in range(50):
            repos[which].append_log([f"line {count}"])
            seen = follower.repo(repos[which].root).log
            assert len(seen) >= count + 1, (which, count, len(seen))

    failures: list[BaseException] = []

    def run(which: int) -> None:
        try:
            change(which)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_new_writer_makes_followers_look(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store", "w") as first:
        root = first.create_repo("first").root
    with dvidzarr.open(tmp_path / "store", "r") as follower:
        assert follower.repo(root).alias == "first"
        with dvidzarr.open(tmp_path / "store", "w") as second:
            second.repo(root).describe(alias="second")
            assert follower.repo(root).alias == "second"


def test_readers_see_no_gap_when_their_process_becomes_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = {f"{number:04}": b"%d" % number for number in range(3000)}
    with dvidzarr.open(tmp_path / "store", "w") as first:
        new: Any = first.create_repo().create_instance("keyvalue", "keys")
        new.at().put_many(pairs)
    seen: list[object] = []

    class Slow(sqlite3.Connection):
        """Its copying takes so long that somebody reads meanwhile."""

        def backup(self, target: sqlite3.Connection, **options: Any) -> None:  # noqa: ANN401 - as sqlite3 has it
            reader.start()
            reader.join(0.3)
            super().backup(target, **options)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Slow))
    with dvidzarr.open(tmp_path / "store", "a") as catalog:
        view: Any = catalog.repos[0].instance("keys").at()
        begun = view.range()
        before = [next(begun)]
        reader = threading.Thread(target=lambda: seen.extend([view.get("0007"), list(view)]))
        catalog.become_writer()
        reader.join()
        assert seen == [b"7", list(pairs)]
        assert dict(before + list(begun)) == dict(view) == pairs
        view["new"] = b"1"
    with dvidzarr.open(tmp_path / "store", "a") as catalog:
        assert dict(catalog.repos[0].instance("keys").at()) == {**pairs, "new": b"1"}  # type: ignore[call-overload]


def test_a_new_writer_does_not_go_on_with_an_index_that_is_ahead_of_the_log(tmp_path: Path) -> None:
    """A power loss took the last records, after they had reached the index."""
    store = tmp_path / "store"
    settings = Settings.load(env={}, overrides={"storage.durability": "fast"})
    with dvidzarr.open(store, "w", settings) as first:
        keys: Any = first.create_repo().create_instance("keyvalue", "keys")
        assert dict(keys.at()) == {}
        log = store / keys.prefix / "log/00000001.log"
        safe = keys.dataset.log.cursor.offset
        keys.at()["lost"] = b"1"
    os.truncate(log, safe)
    log.with_name("applied").unlink()
    with dvidzarr.open(store, "a", settings) as catalog:
        view: Any = catalog.repos[0].instance("keys").at()
        _ = view.instance.dataset  # opened to follow, before it writes
        view["new"] = b"2"
        assert dict(view) == {"new": b"2"}


def test_a_repo_that_can_be_read_again_is_not_called_broken(writer: Catalog, follower: Catalog) -> None:
    repo = writer.create_repo("damaged")
    (segment,) = Path(writer.url).glob(f"{repo.prefix}/log/*.log")
    whole = segment.read_bytes()
    last = len(whole.rstrip(b"\0")) - 1  # zeros behind the records say nothing
    segment.write_bytes(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    assert follower.repos == ()
    assert list(follower.broken) == [repo.id]
    segment.write_bytes(whole)
    writer.create_repo("another")  # the follower looks again
    assert repo.root in {each.root for each in follower.repos}
    assert follower.broken == {}


def test_a_broken_repo_that_was_removed_is_forgotten(writer: Catalog, follower: Catalog) -> None:
    repo = writer.create_repo("damaged")
    (segment,) = Path(writer.url).glob(f"{repo.prefix}/log/*.log")
    segment.write_bytes(segment.read_bytes().rstrip(b"\0")[:-1])
    assert follower.repos == ()
    assert list(follower.broken) == [repo.id]
    shutil.rmtree(Path(writer.url) / repo.prefix)
    writer.create_repo("another")
    assert len(follower.repos) == 1
    assert follower.broken == {}


@pytest.mark.parametrize("when", ["before", "behind"])
@pytest.mark.parametrize(
    ("owner", "step"),
    [(RepoState, "applied"), (VersionNames, "add"), (RepoBase, "_match_instances"), (RepoBase, "_apply")],
)
def test_a_record_is_taken_in_once_when_ctrl_c_comes_meanwhile(
    writer: Catalog, follower: Catalog, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, when: str
) -> None:
    repo = writer.create_repo("interrupted")
    assert len(follower.repos) == 1
    repo.append_log(["a line"])
    repo.create_instance("keyvalue", "kv")
    child = repo.new_version(repo.commit(repo.dag.root))
    real = getattr(owner, step)
    left = [1]

    def interrupted(*args: object) -> object:
        if when == "before" and left and left.pop():
            raise KeyboardInterrupt
        result = real(*args)
        if when == "behind" and left and left.pop():
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, interrupted)
        if step == "_apply":
            (followed,) = follower._repos.values()
            patch.setattr(followed._log, "_apply", lambda entry: interrupted(followed, entry))
        with pytest.raises(KeyboardInterrupt):
            follower.refresh()
    (seen,) = follower.repos
    assert [(each.uuid, each.parents) for each in seen.dag] == [
        (each.uuid, each.parents) for each in repo.dag
    ]
    assert seen.log == repo.log
    assert list(seen.instances) == ["kv"]
    assert follower.resolve(child.uuid[:8])[1].uuid == child.uuid


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_frame_that_ctrl_c_interrupted_is_taken_in_once(
    writer: Catalog, follower: Catalog, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Four records in one frame, as requests that come at the same time make them; the nth is interrupted."""
    values = writer.create_repo("interrupted").create_instance("keyvalue", "kv")
    (repo,) = follower.repos
    dataset = repo.instance("kv").dataset
    puts = [(b"%d" % number, b"value", Author(), {}) for number in range(4)]
    put_documents(values.dataset, 0, puts)
    real, count = LogReader._take, [0]

    def interrupted(reader: LogReader, entry: Entry) -> None:
        count[0] += 1
        if count[0] == nth:
            raise KeyboardInterrupt
        real(reader, entry)

    with monkeypatch.context() as patch:
        patch.setattr(LogReader, "_take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dataset.follow()
    dataset.follow()
    assert dataset.log.tail == values.dataset.log.tail
    assert [key for key, _ in dataset.documents.range(repo.instance("kv").at().lineage())] == [
        key for key, *_ in puts
    ]
