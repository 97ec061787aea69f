"""What a commit vouches for is missed when it is lost, and `verify --repair` ends, whatever is left of a log."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import CorruptionError
from dvidzarr.storage import log
from dvidzarr.storage.frames import Kind
from tests.integration import gray_store
from tests.integration.cli_process import Shell
from tests.integration.damaged_store import SETTINGS, WORLD, flip, instance_log, new_store, noise, views


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return new_store(tmp_path / "store")


def folder_of(store: Path) -> Path:
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        return instance_log(store, catalog, "gray").parent


def is_mended(shell: Shell, store: Path) -> None:
    """Repair; then nothing more is to be found, and writes are taken."""
    assert shell.run("verify", store).code == 1
    assert shell.run("verify", store, "--repair", "--deep").code == 0
    assert "errors, 0 warnings, 0 errors remain" in shell.run("verify", store, "--deep").err
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        view = gray_store.gray(catalog)
        view.write(WORLD, noise(9))
        np.testing.assert_array_equal(view.read(WORLD), noise(9))


@pytest.mark.parametrize("lost", [shutil.rmtree, lambda path: shutil.rmtree(path.parent)], ids=["log", "all"])
@pytest.mark.parametrize("mode", ["r", "w"])
def test_a_lost_log_is_missed_by_the_seals(
    store: Path, shell: Shell, lost: Callable[[Path], None], mode: str
) -> None:
    """Not even the word that says how many records there were is left."""
    lost(folder_of(store))
    with dvidzarr.open(store, mode, SETTINGS) as catalog, pytest.raises(CorruptionError):
        views(catalog)
    is_mended(shell, store)


def test_a_log_copied_before_the_commit_is_missed_by_the_seals(tmp_path: Path) -> None:
    """Who copies the files of a store in the wrong order has a log that ends early, and nothing that says so."""
    store = tmp_path / "store"
    gray_store.new_store(store, SETTINGS)
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        gray_store.put(gray_store.gray(catalog), b"value")
        catalog.repos[0].commit(catalog.repos[0].dag.root)
        assert catalog.context.housekeeper.settle(120)
        place = next(e for e in gray_store.gray(catalog).instance.records() if e.kind == Kind.PUT)
        path = instance_log(store, catalog, "gray")
    path.with_name("applied").unlink()
    os.truncate(path, place.offset - 1)
    shutil.rmtree(store / "cache")
    for mode in ("r", "w", "w"):
        with dvidzarr.open(store, mode, SETTINGS) as catalog, pytest.raises(CorruptionError):
            gray_store.gray(catalog).read(gray_store.BOX)


@pytest.mark.parametrize("content", [b"", b"torn" * 80], ids=["empty", "torn"])
def test_a_segment_without_header_is_mended(store: Path, shell: Shell, content: bytes) -> None:
    (folder_of(store) / "00000002.log").write_bytes(content)
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        before = views(catalog)
    outcome = shell.run("verify", store, "--repair")
    assert outcome.code == 0, outcome
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        np.testing.assert_array_equal(views(catalog), before)
    assert shell.run("verify", store, "--repair").out.count("repaired") == 0


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_lost_segment_is_given_up(
    tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(log, "SEGMENT_SIZE", 1000)
    store = new_store(tmp_path / "store")
    folder = folder_of(store)
    assert len(list(folder.glob("*.log"))) > 3
    (folder / f"{number:08d}.log").unlink()
    shutil.rmtree(store / "cache")
    shell.run("verify", store, "--repair")
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        assert catalog.repos[0].instance("gray").dataset.log.damage == []
        view = gray_store.gray(catalog)
        view.write(WORLD, noise(9))
        np.testing.assert_array_equal(view.read(WORLD), noise(9))


def lose_last(store: Path, kind: Kind) -> None:
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        place = [entry for entry in catalog.repos[0].instance("gray").records() if entry.kind == kind][-1]
        path = instance_log(store, catalog, "gray")
    flip(path, place.offset - 1)


def test_caches_forget_what_is_given_up(store: Path, shell: Shell) -> None:
    """A cache that still knows the lost records would show them until it is lost itself."""
    lose_last(store, Kind.CHUNKS)
    assert shell.run("verify", store, "--repair").code == 0
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        shown = views(catalog)
    shutil.rmtree(store / "cache")
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        np.testing.assert_array_equal(views(catalog), shown)


def test_a_wrong_cache_does_not_come_back(store: Path, shell: Shell) -> None:
    lose_last(store, Kind.CHUNKS)
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        place = catalog.repos[0].instance("gray").id
    kept = next(store.glob(f"cache/*/{place}"))
    copy = shutil.copytree(kept, store.parent / "kept")
    assert shell.run("verify", store, "--repair").code == 0
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(copy, kept)
    assert shell.run("verify", store, "--deep").code == 1
    assert "(repaired)" in shell.run("verify", store, "--deep", "--repair").out
    assert shell.run("verify", store, "--deep").code == 0


def test_chunks_are_found_though_the_record_is_lost_that_moved_them(store: Path, shell: Shell) -> None:
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        before = views(catalog)
    lose_last(store, Kind.FINISHED)
    shutil.rmtree(store / "cache")
    assert shell.run("verify", store, "--repair", "--deep").code == 0
    with dvidzarr.open(store, "r", SETTINGS) as catalog:
        np.testing.assert_array_equal(views(catalog), before)


def test_a_log_that_cannot_be_listed_is_not_taken_for_lost(
    store: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may fail, or a process may have no more files to open: that gives up nothing."""
    folder, scandir = folder_of(store), os.scandir

    def failing(path: str) -> object:
        if str(path) == str(folder):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return scandir(path)

    logs = {path: path.read_bytes() for path in store.rglob("log/*.log")}
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", failing)
        outcome = shell.run("verify", store, "--repair")
        assert (outcome.code, "open files" in outcome.out + outcome.err) == (1, True), outcome
    assert {path: path.read_bytes() for path in store.rglob("log/*.log")} == logs


def test_a_damaged_word_is_named_instead_of_filling_the_disk(store: Path, shell: Shell) -> None:
    """It seems to say that more records are lost than any memory can hold."""
    word = folder_of(store) / "applied"
    flip(word, 6)
    assert "applied" in shell.fails("verify", store, "--repair")
    word.unlink()
    outcome = shell.run("verify", store, "--repair", "--deep")
    assert outcome.code == 0, outcome
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        assert len(views(catalog)) == 3


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json"])
@pytest.mark.parametrize("state", ["is missing", "differs"])
def test_metadata_for_zarr_readers_is_missed_and_made_anew(
    store: Path, shell: Shell, name: str, state: str
) -> None:
    root = next(path for path in folder_of(store).parent.glob("versions/*") if (path / "zarr.json").exists())
    path, whole = root / name, (root / name).read_bytes()
    if state == "differs":
        path.write_bytes(whole[:-2])
    else:
        path.unlink()
    seen = shell.run("verify", store)
    assert (seen.code, seen.out.count("the metadata for Zarr readers")) == (0, 1)
    assert f"{path.relative_to(store)}: the metadata for Zarr readers {state}" in seen.out
    shell.run("verify", store, "--repair")
    assert path.read_bytes() == whole
    assert "0 errors, 0 warnings" in shell.run("verify", store).err


def test_metadata_for_zarr_readers_say_the_name(store: Path, shell: Shell) -> None:
    """They said the old one until somebody wrote, and verify warned."""
    repo = dvidzarr.open(store, "r", SETTINGS).repos[0].root
    root = next(path for path in folder_of(store).parent.glob("versions/*") if (path / "zarr.json").exists())
    shell.ok("rename", store, repo, "gray", "grey")
    assert b'"grey"' in (root / "zarr.json").read_bytes()
    assert "0 errors, 0 warnings" in shell.run("verify", store).err
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        instance = catalog.repos[0].instance("grey")
        assert instance.at().read(WORLD).any()  # it is open when it gets another name
        catalog.repos[0].rename_instance("grey", "third")
    assert b'"third"' in (root / "zarr.json").read_bytes()
