"""One process writes, others follow: what the second writer is told, and what readers see."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import BusyError, ForbiddenError, NotFoundError, StorageError
from dvidzarr.core.geometry import Box
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.repo.generation import Generation
from dvidzarr.storage import log
from dvidzarr.storage.caches import DatasetCaches
from dvidzarr.storage.writing import get_document, put_document

AUTHOR = Author("locks", "test")
BOX = Box((0, 0, 0), (8, 8, 8))
PATIENCE_S = 120.0
spawning = multiprocessing.get_context("spawn")


def block(value: int) -> np.ndarray:
    return np.full(BOX.shape, value, np.uint8)


def hold(folder: str, pipe: Connection) -> None:
    """Write to a store as the parent asks: ("write", number), ("call", name, arguments…), ("stop",)."""
    log.SEGMENT_SIZE = 3000
    with dvidzarr.open(folder, "w") as catalog:
        catalog.announce("http://127.0.0.1:1")
        repo = catalog.create_repo("held")
        repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
        pipe.send(os.getpid())
        while (order := pipe.recv())[0] != "stop":
            what, *rest = order
            if what == "write":
                repo.instance("gray").at().write(BOX, block(rest[0]), AUTHOR)
                view = repo.instance("gray").at()
                with view.writing() as dataset:
                    put_document(dataset, view.ordinal, b"key", b"%d" % rest[0], AUTHOR, {})
            else:
                getattr(repo if rest[0] != "create_repo" else catalog, rest[0])(*rest[1:])
            pipe.send("done")
    pipe.send("closed")


Ask = Callable[..., object]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, int, Ask]]:
    """Give a store that another process writes: its folder, the process, and how to ask it."""
    here, there = spawning.Pipe()
    folder = tmp_path / "store"
    process = spawning.Process(target=hold, args=(str(folder), there))
    process.start()

    orders: list[object] = []

    def ask(*order: object) -> object:
        orders.append(order[0])
        here.send(order)
        assert here.poll(PATIENCE_S)
        return here.recv()

    try:
        assert here.poll(PATIENCE_S)
        yield folder, here.recv(), ask
        if "stop" not in orders:
            ask("stop")
        process.join(PATIENCE_S)
    finally:
        process.kill()
        process.join()


def test_a_second_writer_is_told_who_writes(held: tuple[Path, int, Ask]) -> None:
    folder, pid, ask = held
    with pytest.raises(BusyError, match=rf"process {pid}; .*http://127\.0\.0\.1:1"):
        dvidzarr.open(folder, "w")
    with dvidzarr.open(folder, "a") as catalog:
        view = catalog.repos[0].instance("gray").at()
        view.read(BOX)
        with pytest.raises(BusyError, match=str(pid)):
            view.write(BOX, block(1), AUTHOR)
        with pytest.raises(BusyError, match=str(pid)):
            catalog.repos[0].commit(catalog.repos[0].dag.root)
        ask("write", 5)
        assert view.read(BOX).tolist() == block(5).tolist()
        ask("stop")
        deadline = time.monotonic() + PATIENCE_S
        while True:  # the other process lets go of the lock a moment after its last word
            try:
                view.write(BOX, block(6), AUTHOR)
                break
            except BusyError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert view.read(BOX).tolist() == block(6).tolist()


def test_a_reader_never_writes(held: tuple[Path, int, Ask]) -> None:
    with dvidzarr.open(held[0], "r") as catalog:
        with pytest.raises(ForbiddenError):
            catalog.create_repo("no")
        with pytest.raises(ForbiddenError):
            catalog.repos[0].instance("gray").at().write(BOX, block(1), AUTHOR)


def test_readers_follow_everything(held: tuple[Path, int, Ask]) -> None:
    folder, _, ask = held
    with dvidzarr.open(folder, "r") as catalog:
        repo = catalog.repos[0]
        view = repo.instance("gray").at(repo.dag.root)
        for number in range(1, 60):  # the log grows over several segments
            ask("write", number)
            assert view.read(BOX).tolist() == block(number).tolist()
            dataset = view.instance.dataset
            assert get_document(dataset, b"key", view.lineage()) == b"%d" % number
        assert len(list(folder.glob(f"{view.instance.prefix}/log/*.log"))) > 3
        root = repo.dag.root
        ask("call", "commit", root.uuid)
        catalog.refresh()
        assert repo.dag.root.locked
        ask("call", "new_version", root.uuid)
        ask("write", 77)
        assert repo.instance("gray").at("".join((root.uuid, ":master"))).read(BOX)[0, 0, 0] == 77
        assert view.read(BOX)[0, 0, 0] == 59
        ask("call", "create_instance", "uint8blk", "second", {})
        ask("call", "rename_instance", "gray", "grey")
        catalog.refresh()
        assert set(repo.instances) == {"grey", "second"}
        assert repo.instance("grey").at().read(BOX)[0, 0, 0] == 77
        ask("call", "delete_instance", "grey")
        catalog.refresh()
        assert set(repo.instances) == {"second"}
        with pytest.raises(NotFoundError):
            repo.instance("grey")


def test_a_reader_sees_every_new_repo_at_once(held: tuple[Path, int, Ask]) -> None:
    folder, _, ask = held
    with dvidzarr.open(folder, "r") as catalog:
        for number in range(2, 40):
            ask("call", "create_repo", f"repo {number}")
            assert len(catalog.repos) == number


def test_a_store_that_was_not_closed_is_taken_over(tmp_path: Path) -> None:
    here, there = spawning.Pipe()
    process = spawning.Process(target=hold, args=(str(tmp_path / "store"), there))
    process.start()
    assert here.poll(PATIENCE_S)
    here.recv()
    here.send(("write", 9))
    assert here.poll(PATIENCE_S)
    process.kill()
    process.join()
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        assert catalog.repos[0].instance("gray").at().read(BOX).tolist() == block(9).tolist()


@pytest.mark.parametrize("durability", ["full", "fast"])
@pytest.mark.parametrize(
    ("step", "error"),
    [
        ((Generation, "begin"), StorageError("no room")),
        ((Generation, "begin"), KeyboardInterrupt()),
        ((DatasetCaches, "take_over"), KeyboardInterrupt()),
    ],
    ids=["failed at the end", "interrupted at the end", "interrupted in an instance"],
)
def test_who_failed_to_become_the_writer_follows_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: tuple[type, str],
    error: BaseException,
    durability: str,
) -> None:
    """What others write meanwhile is seen, and is still there after the next try."""
    settings = Settings.load(env={}, overrides={"storage.durability": durability})

    def fail(_: object) -> None:
        raise error

    with dvidzarr.open(tmp_path / "store", "w", settings) as catalog:
        repo = catalog.create_repo("first")
        repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"}).at().write(BOX, block(1))  # type: ignore[attr-defined]
        repo.create_instance("keyvalue", "keys").at()["a"] = b"1"  # type: ignore[attr-defined, index]
    with dvidzarr.open(tmp_path / "store", "a", settings) as catalog:
        repo = catalog.repos[0]
        gray, keys = (repo.instance(name).at() for name in ("gray", "keys"))
        assert (gray.read(BOX)[0, 0, 0], dict(keys)) == (1, {"a": b"1"})  # type: ignore[attr-defined, call-overload]
        with monkeypatch.context() as patch:
            patch.setattr(*step, fail)
            with pytest.raises(type(error)):
                keys["mine"] = b"first"  # type: ignore[index]
        with dvidzarr.open(tmp_path / "store", "w", settings) as other:
            theirs = other.repos[0]
            theirs.describe(alias="second")
            theirs.instance("gray").at().write(BOX, block(2))  # type: ignore[attr-defined]
            for number in range(5):
                theirs.instance("keys").at()[f"{number}"] = b"theirs"  # type: ignore[index]
            there = {"a": b"1", **{f"{number}": b"theirs" for number in range(5)}}
            assert catalog.repos == (repo,)
            assert repo.alias == "second"
            assert gray.read(BOX)[0, 0, 0] == 2
            assert dict(keys) == there  # type: ignore[call-overload]
        keys["mine"] = b"second" * 20  # type: ignore[index]
        assert dict(keys) == there | {"mine": b"second" * 20}  # type: ignore[call-overload]
    with dvidzarr.open(tmp_path / "store", "r") as catalog:
        repo = catalog.repos[0]
        assert repo.alias == "second"
        assert repo.instance("gray").at().read(BOX)[0, 0, 0] == 2
        assert dict(repo.instance("keys").at()) == there | {"mine": b"second" * 20}  # type: ignore[call-overload]
        assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []


def test_a_repo_that_was_opened_anew_is_not_written_through_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two owners of one log would overwrite each other's records."""
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        catalog.create_repo().create_instance("keyvalue", "keys").at()["a"] = b"1"  # type: ignore[attr-defined, index]
    with dvidzarr.open(tmp_path / "store", "a") as catalog:
        old = catalog.repos[0].instance("keys").at()
        assert dict(old) == {"a": b"1"}  # type: ignore[call-overload]

        def fail(_: object) -> None:
            raise StorageError("no room")

        with monkeypatch.context() as patch:
            patch.setattr(DatasetCaches, "take_over", fail)
            catalog.become_writer()
        new = catalog.repos[0].instance("keys").at()
        for number in range(5):
            new[f"{number}"] = b"new"  # type: ignore[index]
        with pytest.raises(StorageError, match="opened anew"):
            old["b"] = b"old" * 20  # type: ignore[index]
        with pytest.raises(StorageError, match="opened anew"):
            old.get("a")  # type: ignore[attr-defined]
        new["c"] = b"new"  # type: ignore[index]
    with dvidzarr.open(tmp_path / "store", "r") as catalog:
        assert sorted(catalog.repos[0].instance("keys").at()) == ["0", "1", "2", "3", "4", "a", "c"]  # type: ignore[call-overload]


def test_a_repo_is_deleted_with_all_its_instances_or_not_at_all(tmp_path: Path) -> None:
    settings = Settings.load(env={}, overrides={"storage.drain_timeout_s": 0.05})
    with dvidzarr.open(tmp_path / "store", "w", settings) as catalog:
        repo = catalog.create_repo("busy")
        for name in ("a", "b", "c"):
            repo.create_instance("keyvalue", name)
        with (
            repo.instance("c").at().writing(),
            pytest.raises(BusyError, match="writes to data instance 'c' did not end"),
        ):
            catalog.delete_repo(repo.root)
        assert sorted(catalog.repo(repo.root).instances) == ["a", "b", "c"]
        late: Any = repo.instance("a").at()
        catalog.delete_repo(repo.root)
        with pytest.raises(NotFoundError):
            late["too"] = b"late"
        assert catalog.repos == ()
        assert [path.name.split("-")[0] for path in (tmp_path / "store/trash").iterdir()] == ["repos"]
