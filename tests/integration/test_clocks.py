"""Clocks jump: nothing is ordered by time, neither versions nor records nor who sees what."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core import ids
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.repo import Repo
from dvidzarr.storage.writing import get_document
from tests.integration.gray_store import BOX, put, write

DAY = 24 * 3600.0
Jump = Callable[[float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jump]:
    """Return what moves the clock of this process by some seconds."""
    moved = [0.0]
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + moved[0])
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(moved[0] * 1e9))

    class Clock(ids.datetime):  # type: ignore[misc,name-defined]
        @classmethod
        def now(cls, tz: object = None) -> object:
            return cls.fromtimestamp(time.time(), tz)

    monkeypatch.setattr(ids, "datetime", Clock)

    def by(seconds: float) -> None:
        moved[0] += seconds

    return by


def settings_for(durability: str) -> Settings:
    overrides = {"storage.durability": durability, "storage.rewrite_grace_s": 0, "compute.threads": 1}
    return Settings.load(env={}, overrides=overrides)


def write_both(view: VoxelView, value: int) -> None:
    write(view, value)
    put(view, b"%d" % value)


def shown(repo: Repo, ordinal: int) -> tuple[list[int], bytes | None]:
    view = repo.instance("gray").at(repo.dag.versions[ordinal])
    return np.unique(view.read(BOX)).tolist(), get_document(view.instance.dataset, b"key", view.lineage())


@pytest.mark.parametrize("durability", ["full", "fast"])
@pytest.mark.parametrize("jumps", [(-DAY,) * 4, (DAY,) * 4, (DAY, -3 * DAY, 0.0, 30 * DAY)])
def test_versions_and_records_keep_their_order(
    tmp_path: Path, jump: Jump, jumps: tuple[float, ...], durability: str
) -> None:
    folder, settings = tmp_path / "store", settings_for(durability)
    with dvidzarr.open(folder, "w", settings) as catalog:
        catalog.create_repo("clocks").create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
    for number, seconds in enumerate(jumps):
        jump(seconds)
        with dvidzarr.open(folder, "w", settings) as catalog:
            repo = catalog.repos[0]
            view = repo.instance("gray").at()
            assert isinstance(view, VoxelView)
            for value in (10 * number + 1, 10 * number + 2):
                write_both(view, value)
                jump(seconds / 2)
            repo.commit(view.version)
            jump(-seconds)
            assert repo.new_version(view.version).ordinal == number + 1
            repo.branch(view.version, f"side-{number}") if number == len(jumps) - 1 else None
    for mode in ("r", "w"):
        with dvidzarr.open(folder, mode, settings) as catalog:
            repo = catalog.repos[0]
            assert [version.parents for version in repo.dag][:5] == [(), (0,), (1,), (2,), (3,)]
            assert repo.dag.head("").ordinal == len(jumps)
            for number in range(len(jumps)):
                assert shown(repo, number) == ([10 * number + 2], b"%d" % (10 * number + 2))
            sequences = [entry.sequence for entry in repo.instance("gray").records()]
            assert sequences == list(range(1, len(sequences) + 1))
            assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []


def test_times_that_jump_are_recorded_as_they_were(tmp_path: Path, jump: Jump) -> None:
    """Else the two tests here would prove nothing."""
    with dvidzarr.open(tmp_path / "store", "w", settings_for("full")) as catalog:
        repo = catalog.create_repo("clocks")
        before = repo.dag.root.created
        repo.commit(repo.root)
        jump(-DAY)
        assert repo.new_version(repo.root).created < before


@pytest.mark.parametrize("seconds", [-DAY, DAY, -3.0, 3.0])
def test_followers_see_everything_at_once(tmp_path: Path, jump: Jump, seconds: float) -> None:
    with (
        dvidzarr.open(tmp_path / "store", "w", settings_for("full")) as writer,
        dvidzarr.open(tmp_path / "store", "r", settings_for("full")) as reader,
    ):
        for number in range(1, 8):
            repo = writer.create_repo(f"repo {number}")
            repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
            assert len(reader.repos) == number
            jump(seconds)
            write_both(repo.instance("gray").at(), number)  # type: ignore[arg-type]
            assert shown(reader.repo(repo.root), 0) == ([number], b"%d" % number)
