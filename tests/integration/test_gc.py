"""What no record names is collected when it is old; nothing else ever is."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dvidzarr
from dvidzarr.core.errors import ForbiddenError, InvalidInputError
from dvidzarr.core.settings import Settings
from dvidzarr.repo.garbage import collect, purge
from dvidzarr.storage.writing import delete_document, get_document
from tests.integration.cli_process import Shell
from tests.integration.damaged_store import flip
from tests.integration.gray_store import AUTHOR, BOX, gray, put, write

LARGE = 70_000
DAY = 24 * 3600
SETTINGS = Settings.load(env={}, overrides={"storage.rewrite_grace_s": 1000, "compute.threads": 1})


def age(folder: Path, days: float = 2) -> None:
    """Let all files look as if they were written some time ago."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - days * DAY,) * 2, follow_symlinks=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Make a store with one locked version and one open one; in both, chunks and values were replaced."""
    folder = tmp_path / "store"
    with dvidzarr.open(folder, "w", SETTINGS) as catalog:
        repo = catalog.create_repo("gc")
        repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
        for version in range(2):
            for value in (1, 2):
                write(gray(catalog), 10 * version + value)
                put(gray(catalog), bytes([10 * version + value]) * LARGE)
            if version == 0:
                repo.commit(repo.root)
                repo.new_version(repo.root)
    return folder


def leave_objects(folder: Path) -> list[Path]:
    """Put objects where a crash may leave them: a chunk, a rewrite, a blob, half-renamed files."""
    with dvidzarr.open(folder, "r") as catalog:
        prefix = folder / gray(catalog).instance.prefix
        version = catalog.repos[0].dag.head("").id
    names = (
        f"versions/{version}/0/c/9/9/9",
        f"versions/{version}/zarr.json.0123.partial",
        f"rewrites/{version}/0-00000000000000aa",
        "rewrites/0123/0-00000000000000ab.0123.partial",
        "blobs/0123",
    )
    for name in names:
        path = prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left behind")
    return [prefix / name for name in names]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in (folder / "repos").rglob("*") if path.is_file()}


def check(folder: Path) -> Iterator[str]:
    """Look at all versions; yield what verify says beside the number of versions."""
    for mode in ("r", "w"):
        with dvidzarr.open(folder, mode, SETTINGS) as catalog:
            for ordinal, value in enumerate((2, 12)):
                view = catalog.repos[0].instance("gray").at(catalog.repos[0].dag.versions[ordinal])
                assert (view.read(BOX) == value).all()
                found = get_document(view.instance.dataset, b"key", view.lineage())
                assert found == bytes([value]) * LARGE
            yield from (f.message for f in catalog.verify(deep=True) if "versions" not in f.message)


def test_old_leftovers_go_and_nothing_else(store: Path) -> None:
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        _ = gray(catalog).instance.dataset
        assert catalog.context.housekeeper.settle(120)  # what the process before left in packs goes now
    left = leave_objects(store)
    age(store)
    before = files(store)
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        (found,) = collect(catalog)
    assert files(store) == before
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        assert list(collect(catalog, dry_run=False)) == [found]
        assert list(collect(catalog, dry_run=False)) == []
    gone = before - files(store)
    assert {str(path.relative_to(store)) for path in left} < gone
    assert found.objects == len(gone) == len(left) + 2 * 1
    (trash,) = (store / "trash").iterdir()
    assert {str(path.relative_to(trash)) for path in trash.rglob("*") if path.is_file()} == gone
    assert list(check(store)) == []


def test_young_objects_stay(store: Path) -> None:
    age(store)
    left = leave_objects(store)
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        kept = [garbage for garbage in collect(catalog, older_than_s=3600, dry_run=False) if garbage.kept]
        assert [garbage.objects for garbage in kept] == [len(left)]
        assert all(path.exists() for path in left)
        with pytest.raises(InvalidInputError, match="too short"):
            list(collect(catalog, older_than_s=60))


def test_damage_stops_collecting(store: Path) -> None:
    """A record that is lost may have named what seems to be left behind."""
    left = leave_objects(store)
    (log,) = store.glob("repos/*/data/*/log/00000001.log")
    flip(log)
    shutil.rmtree(store / "cache")  # else the log is read from its end on only
    age(store)
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        (found,) = collect(catalog, dry_run=False)
        assert "damaged" in found.kept
    assert all(path.exists() for path in left)


def test_reading_only_collects_nothing(store: Path) -> None:
    with dvidzarr.open(store, "r", SETTINGS) as catalog, pytest.raises(ForbiddenError):
        list(collect(catalog, dry_run=False))


def test_collecting_while_others_write(store: Path) -> None:
    """What is written meanwhile is young, or named: collecting again and again takes none of it."""
    done = threading.Event()
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        repo, raised = catalog.repos[0], []

        def work() -> None:
            try:
                for value in range(1, 60):
                    write(gray(catalog), value)
                    put(gray(catalog), bytes([value]) * LARGE)
                    assert (gray(catalog).read(BOX) == value).all()
                    if value % 20 == 0:
                        head = repo.commit(repo.dag.head(""))
                        repo.new_version(head)
                with gray(catalog).writing() as dataset:
                    delete_document(dataset, gray(catalog).ordinal, b"key", AUTHOR, {})
            except BaseException as error:
                raised.append(error)
                raise
            finally:
                done.set()

        thread = threading.Thread(target=work)
        thread.start()
        while not done.is_set():
            list(collect(catalog, older_than_s=3600, dry_run=False))
        thread.join()
        assert raised == []
        assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []


def test_what_another_process_deletes_meanwhile_is_passed_over(store: Path) -> None:
    leave_objects(store)
    age(store)
    with dvidzarr.open(store, "w", SETTINGS) as writer, dvidzarr.open(store, "r", SETTINGS) as reader:
        (repo,) = writer.repos
        repo.create_instance("uint8blk", "last")
        found = collect(reader)
        first = next(found)
        repo.delete_instance("last")
        assert {garbage.place for garbage in (first, *found)} == {gray(writer).instance.prefix}


def test_old_trash_is_purged(store: Path) -> None:
    leave_objects(store)
    age(store)
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        list(collect(catalog, dry_run=False))
        catalog.repos[0].delete_instance("gray")
        assert len(list((store / "trash").iterdir())) == 2
        assert list(purge(catalog, older_than_s=DAY, dry_run=False)) == []
        assert len(list(purge(catalog, older_than_s=0))) == 2
        assert len(list((store / "trash").iterdir())) == 2
        assert {found.objects > 0 for found in purge(catalog, older_than_s=0, dry_run=False)} == {True}
        assert list((store / "trash").iterdir()) == []


def test_command_line(store: Path, tmp_path: Path) -> None:
    shell, left = Shell(tmp_path), leave_objects(store)
    age(store)
    assert "--yes" in shell.run("gc", store).err
    assert all(path.exists() for path in left)
    with dvidzarr.open(store, "w", SETTINGS):
        assert shell.run("gc", store).code == 0
        assert "writ" in shell.fails("gc", store, "--yes")
    (row,) = map(json.loads, shell.run("gc", store, "--yes", "--json").out.splitlines())
    assert row["objects"] >= len(left)
    assert not any(path.exists() for path in left)
    assert list(check(store)) == []
    outcome = shell.run("gc", store, "--yes", "--purge-trash", 0)
    assert outcome.out.startswith("trash/gc-")
    assert list((store / "trash").iterdir()) == []
