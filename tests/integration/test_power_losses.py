"""With durability `fast` a request is whole or gone after a power loss, and all that was flushed is there."""

import os
import random
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import StorageError
from dvidzarr.storage import local
from dvidzarr.storage.caches import DatasetCaches
from dvidzarr.storage.durability import flush
from dvidzarr.storage.frames import Kind
from tests.integration.damaged_store import flip
from tests.integration.gray_store import BOX, FAST, FULL, gray, new_store, settings_for, write

Stretch = tuple[str, int, int]
"""Key of a file, and where in it something was written."""


def lose(folder: Path, stretch: Stretch, chance: random.Random) -> None:
    """Lose what was written to a file and not flushed."""
    key, begin, end = stretch
    path, how = folder / key, chance.choice(("name", "length", "bytes"))
    if how == "name" and not begin:
        path.unlink(missing_ok=True)
    elif path.exists() and how == "length" and path.stat().st_size <= end:
        os.truncate(path, begin)
    elif path.exists():
        with path.open("r+b") as file:
            file.seek(begin)
            file.write(bytes(end - begin))


def lose_power(
    source: Path, target: Path, chance: random.Random, at_risk: set[Stretch], start: int, log_key: str
) -> tuple[int, set[Stretch]]:
    """Copy a store as a power loss may leave it; return how much of the log is left, and what of objects is lost."""
    shutil.copytree(source, target)
    if chance.random() < 0.5:
        shutil.rmtree(target / "cache", ignore_errors=True)
    lost = {stretch for stretch in sorted(at_risk) if chance.random() < 0.3}
    for stretch in sorted(lost):
        lose(target, stretch, chance)
    path = target / log_key
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0"))
    cut = chance.randint(start, end)
    if chance.random() < 0.3:
        cut = len(whole)
    filler = chance.choice((b"", bytes(len(whole) - cut), chance.randbytes(len(whole) - cut)))
    left = whole[:cut] + filler
    path.write_bytes(left)
    while cut < min(len(whole), len(left)) and left[cut] == whole[cut]:
        cut += 1  # what fills the gap may be what stood there, such as the zeros at the end of a record
    word = path.with_name("applied")
    chance.choice((lambda: None, word.unlink, lambda: word.write_bytes(bytes(8))))()
    return cut, lost


def sizes(folder: Path, keys: Iterable[str]) -> dict[str, int]:
    """Return the sizes of those files that exist."""
    return {key: (folder / key).stat().st_size for key in keys if (folder / key).exists()}


def prepare(folder: Path, chance: random.Random) -> tuple[int, int, list[tuple[int, int, set[Stretch]]], str]:
    """Write some flushed and some unflushed requests.

    Returns the flushed value, the end of the log then, (value, end in the log, what was written to objects) of each later
    request, and the key of the log. The process is left as it is.
    """
    catalog = dvidzarr.open(folder, "w", FAST)
    view = gray(catalog) if catalog.repos else None
    assert view is not None
    dataset = view.instance.dataset
    flushed = 0
    for flushed in range(2, chance.randint(3, 6)):
        write(view, flushed)
    flush(dataset)
    assert dataset.log.unflushed_after is not None
    key = f"{dataset.prefix}/log/00000001.log"
    start = dataset.log.cursor.offset
    later = []
    for value in range(100, 100 + chance.randint(1, 6)):
        before = sizes(folder, dataset.context.backend.keys(f"{dataset.prefix}/rewrites"))
        write(view, value)
        after = sizes(folder, set(dataset.unflushed))
        grown = {(name, before.get(name, 0), size) for name, size in after.items()}
        later.append((value, dataset.log.cursor.offset, grown))
    if chance.random() < 0.5:
        dataset.save_caches()
    assert catalog.context.housekeeper.settle(120)
    prepare.open.append(catalog)  # type: ignore[attr-defined]
    return flushed, start, later, key


prepare.open = []  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(25))
def test_after_a_power_loss_requests_are_whole_or_gone(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    new_store(tmp_path / "store", FAST)
    flushed, start, later, key = prepare(tmp_path / "store", chance)
    try:
        for number in range(4):
            folder = tmp_path / str(number)
            at_risk = {name for _, _, objects in later for name in objects}
            cut, lost = lose_power(tmp_path / "store", folder, chance, at_risk, start, key)
            alive = [value for value, end, objects in later if end <= cut and not objects & lost]
            want = alive[-1] if alive else flushed
            for settings in (chance.choice((FAST, FULL)), FULL, FAST):
                with dvidzarr.open(folder, "w", settings) as catalog:
                    view = gray(catalog)
                    assert np.unique(view.read(BOX)).tolist() == [want]
                    assert catalog.context.housekeeper.settle(120)
                    assert np.unique(view.read(BOX)).tolist() == [want]
                    assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []
                with dvidzarr.open(folder, "r", settings) as catalog:
                    assert np.unique(gray(catalog).read(BOX)).tolist() == [want]
            with dvidzarr.open(folder, "w", FAST) as catalog:
                write(gray(catalog), 255)
            with dvidzarr.open(folder, "w", FULL) as catalog:
                assert np.unique(gray(catalog).read(BOX)).tolist() == [255]
    finally:
        prepare.open.pop().close()  # type: ignore[attr-defined]


def test_what_a_killed_process_left_is_synced_before_it_is_vouched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9 all bytes can be read, but they need not be on the disk."""
    new_store(tmp_path / "store", FAST)
    _, _, later, key = prepare(tmp_path / "store", random.Random(3))
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    prepare.open.pop().close()  # type: ignore[attr-defined]
    synced: set[str] = set()
    real = local.sync_path

    def note(path: str, name: str, flags: int) -> None:
        synced.add(name)
        real(path, name, flags)

    monkeypatch.setattr(local, "sync_path", note)
    with dvidzarr.open(tmp_path / "copy", "w", FAST) as catalog:
        dataset = gray(catalog).instance.dataset
        assert dataset.flushed >= len(later)
        assert {name for _, _, objects in later for name, _, _ in objects} <= synced
        assert key == f"{dataset.prefix}/log/00000001.log"


def test_nothing_is_removed_while_void_requests_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background removes what was superseded, but not by what is void: it must not look before that is known."""
    new_store(tmp_path / "store", FAST)
    with dvidzarr.open(tmp_path / "store", "w", FAST) as catalog:
        view = gray(catalog)
        write(view, 2)  # in a pack from here on
        flush(view.instance.dataset)
        (pack,) = (path for path in (tmp_path / "store").rglob("rewrites/*/*"))
        flushed = pack.stat().st_size
        write(view, 3)
        assert set(view.instance.dataset.unflushed) == {str(pack.relative_to(tmp_path / "store"))}
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
    os.truncate(tmp_path / "copy" / pack.relative_to(tmp_path / "store"), flushed)
    adopt, replays = DatasetCaches.adopt, []

    def slowly(this: DatasetCaches, others: DatasetCaches) -> None:
        """Give the background its time when an instance starts again without its void requests."""
        replays.append(this)
        time.sleep(0.3)
        adopt(this, others)

    monkeypatch.setattr(DatasetCaches, "adopt", slowly)
    with dvidzarr.open(tmp_path / "copy", "w", settings_for("fast", interval=0.01)) as catalog:
        assert (gray(catalog).read(BOX) == 2).all()
        assert catalog.context.housekeeper.settle(120)
        assert (gray(catalog).read(BOX) == 2).all()
        assert len(replays) == 1
        assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []


def test_damage_before_the_last_checkpoint_is_no_power_loss(tmp_path: Path) -> None:
    """What was flushed must not go with the first bad frame: that is damage, which nobody may overlook."""
    folder = tmp_path / "store"
    new_store(folder, FAST)
    with dvidzarr.open(folder, "w", FAST) as catalog:
        for value in range(2, 6):
            write(gray(catalog), value)
        flush(gray(catalog).instance.dataset)
        entries = [e for e in gray(catalog).instance.records() if e.kind == Kind.CHUNKS]
        path = folder / gray(catalog).instance.prefix / "log/00000001.log"
    flip(path, entries[2].offset)
    data = path.read_bytes()
    for keep_word in (True, False):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        if not keep_word:
            path.with_name("applied").unlink()
        with dvidzarr.open(folder, "w", FAST) as catalog:
            with pytest.raises(StorageError, match="lost"):
                gray(catalog).read(BOX)
            assert any(f.severity == "error" for f in catalog.verify())
        assert path.read_bytes() == data
