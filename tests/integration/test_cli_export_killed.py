"""An export that is killed loses nothing older and leaves nothing that looks like data; the next one clears up."""

import errno
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr

from dvidzarr.cli.export import _unwound
from dvidzarr.cli.unfinished import workplace
from tests.integration.cli_process import PATIENCE, Shell

PLACE = ":master/gray"
VOXELS = np.random.default_rng(1).integers(0, 256, (70, 80, 90), np.uint8)


@pytest.fixture
def store(shell: Shell, tmp_path: Path) -> Path:
    np.save(tmp_path / "source.npy", VOXELS)
    shell.ok("new", "repo", tmp_path / "store")
    shell.ok("ingest", tmp_path / "store", PLACE, tmp_path / "source.npy")
    (tmp_path / "out").mkdir()
    return tmp_path / "store"


def kill(shell: Shell, place: str, number: int, *words: object) -> None:
    """Kill a command before so many-th call of a method."""
    with shell.held(place, number, *words) as process:
        process.kill()
        process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("name", ["x.tif", "x.h5", "x.npy", "x.zarr"])
def test_what_a_killed_export_left_is_cleared_by_the_next(shell: Shell, store: Path, name: str) -> None:
    target = store.parent / "out" / name
    words = ("export", store, PLACE, target)
    kill(shell, "dvidzarr.cli.progress:Meter.advance", 1, *words)
    assert not target.exists()
    assert list(target.parent.iterdir())
    with shell.held(
        "dvidzarr.cli.progress:Meter.advance", 1, *words
    ) as other:  # which goes on, and is left alone
        shell.ok(*words)
        assert len(list(target.parent.iterdir())) == 2
        other.kill()
        other.communicate(timeout=PATIENCE)
    shell.ok(*words, "--overwrite")
    assert list(target.parent.iterdir()) == [target]
    shell.ok("ingest", store, ":master/again", target)
    shell.ok("export", store, ":master/again", store.parent / "again.npy")
    assert np.array_equal(np.load(store.parent / "again.npy"), VOXELS)


def test_an_older_export_comes_back_if_the_new_one_was_not_put_in_place(shell: Shell, store: Path) -> None:
    target = store.parent / "out/x.zarr"
    zarr.save_array(target, VOXELS[:10])
    words = ("export", store, PLACE, target)
    kill(shell, "pathlib:Path.rename", 2, *words, "--overwrite")
    assert not target.exists()
    assert "exists" in shell.fails(*words)
    assert list(target.parent.iterdir()) == [target]
    assert np.array_equal(zarr.open_array(target, mode="r")[:], VOXELS[:10])
    shell.ok(*words, "--overwrite")
    assert list(target.parent.iterdir()) == [target]
    assert np.array_equal(zarr.open_array(target, path="0", mode="r")[:], VOXELS)


def test_an_older_export_that_was_replaced_does_not_come_back(shell: Shell, store: Path) -> None:
    """It may be half removed, and would look like a whole one."""
    target, aside = store.parent / "out/x.zarr", store.parent / "aside.zarr"
    zarr.save_array(target, VOXELS[:10])
    words = ("export", store, PLACE, target)
    kill(shell, "dvidzarr.cli.sinks:shutil.rmtree", 1, *words, "--overwrite")
    target.rename(aside)
    shell.ok(*words)
    assert list(target.parent.iterdir()) == [target]
    for path in (target, aside):
        assert np.array_equal(zarr.open_array(path, path="0", mode="r")[:], VOXELS)


def test_an_export_of_a_folder_in_place_of_a_file(shell: Shell, store: Path) -> None:
    """It was refused when all was copied."""
    target = store.parent / "out/x.zarr"
    target.write_bytes(b"no zarr")
    assert "exists" in shell.fails("export", store, PLACE, target)
    assert target.read_bytes() == b"no zarr"
    shell.ok("export", store, PLACE, target, "--overwrite")
    assert list(target.parent.iterdir()) == [target]
    assert np.array_equal(zarr.open_array(target, path="0", mode="r")[:], VOXELS)


def test_a_link_that_leads_nowhere_is_not_replaced_unasked(shell: Shell, store: Path) -> None:
    target = store.parent / "out/x.npy"
    target.symlink_to(store.parent / "not mounted")
    assert "exists" in shell.fails("export", store, PLACE, target)
    assert target.is_symlink()


def test_an_older_export_is_never_removed_while_it_has_no_name(
    shell: Shell, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the new one nor, at first, the old one can be put in place."""
    target, rename = store.parent / "out/x.zarr", Path.rename
    zarr.save_array(target, VOXELS[:10])
    words = ("export", store, PLACE, target)

    def stuck(path: Path, to: Path) -> Path:
        if to == target:
            raise OSError(errno.EIO, "no luck", str(path))
        return rename(path, to)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stuck)
        assert "no luck" in shell.fails(*words, "--overwrite")
    assert not target.exists()
    assert "exists" in shell.fails(*words)
    assert list(target.parent.iterdir()) == [target]
    assert np.array_equal(zarr.open_array(target, mode="r")[:], VOXELS[:10])


def test_an_export_in_place_of_a_link_leaves_what_it_leads_to(shell: Shell, store: Path) -> None:
    target, other = store.parent / "out/x.zarr", store.parent / "other.zarr"
    zarr.save_array(other, VOXELS[:10])
    target.symlink_to(other)
    shell.ok("export", store, PLACE, target, "--overwrite")
    assert np.array_equal(zarr.open_array(other, mode="r")[:], VOXELS[:10])
    assert np.array_equal(zarr.open_array(target, path="0", mode="r")[:], VOXELS)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("name", ["", "x.tar"])
def test_half_a_value_is_no_key(shell: Shell, store: Path, name: str) -> None:
    out = store.parent / "out"
    for instance in ("kv", "other"):
        shell.ok("new", "instance", store, ":master", "keyvalue", instance)
    for key in ("a", "b", "c"):
        shell.ok("kv", "put", store, ":master/kv", key, store.parent / "source.npy")
    words = ("kv", "export", store, ":master/kv", out / name)
    kill(shell, "dvidzarr.cli.bundles:_Archive.add" if name else "pathlib:Path.replace", 2, *words)
    shell.ok("kv", "import", store, ":master/other", out)
    assert shell.ok("kv", "ls", store, ":master/other") == ("" if name else "a")
    shell.ok(*words, "--force")
    assert {path.name for path in out.iterdir()} == ({name} if name else {"a", "b", "c"})


def test_ctrl_c_while_it_clears_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rmtree = shutil.rmtree

    def press_and_remove(path: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", press_and_remove)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), workplace(tmp_path, "x") as folder:
            (folder / "part").write_bytes(b"1")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_the_thread_that_writes_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waited for it: it wrote into the folder that was removed."""
    start, stop, ended = threading.Thread.start, threading.Event(), list[bool]()

    def start_and_press(thread: threading.Thread) -> None:
        start(thread)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", start_and_press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _unwound(lambda: ended.append(stop.wait(PATIENCE)), stop)
        assert ended == [True]
    finally:
        stop.set()
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_twice_waits_for_the_thread_that_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It wrote on into the folder that was removed, and zarr complained in hundreds of lines."""
    join, main = threading.Thread.join, threading.main_thread().ident
    stop, pressed, ended = threading.Event(), threading.Event(), list[bool]()

    def press_and_join(thread: threading.Thread, timeout: float | None = None) -> None:
        signal.raise_signal(signal.SIGINT)
        pressed.set()
        join(thread, timeout)

    def work() -> None:
        signal.pthread_kill(main or 0, signal.SIGINT)
        ended.append(stop.wait(PATIENCE) and pressed.wait(PATIENCE))

    monkeypatch.setattr(threading.Thread, "join", press_and_join)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _unwound(work, stop)
        assert ended == [True]
    finally:
        pressed.set()
        signal.signal(signal.SIGINT, before)
