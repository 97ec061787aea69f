"""Bricks tile a box on the grid, and the journal remembers exactly those that were done."""

import threading
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.cli.bricks import CopyPlan, Journal, bricks, copy_bricks
from dvidzarr.core.geometry import Box

CHUNK = (4, 8, 16)
axis = st.tuples(st.integers(-40, 40), st.integers(1, 60))
PLAN = CopyPlan("source", "target", Box((0, 0, 0), (64, 20, 33)), CHUNK, 512, Box((0, 0, 0), (1, 1, 1)))


@given(axis, axis, axis, st.integers(1, 60_000))
def test_bricks_cover_each_voxel_once_on_the_grid(
    z: tuple[int, int], y: tuple[int, int], x: tuple[int, int], limit: int
) -> None:
    box = Box((z[0], y[0], x[0]), (z[0] + z[1], y[0] + y[1], x[0] + x[1]))
    count = np.zeros(box.shape, int)
    for brick in bricks(box, CHUNK, limit):
        low = [a - b for a, b in zip(brick.start, box.start, strict=True)]
        high = [a - b for a, b in zip(brick.stop, box.start, strict=True)]
        count[low[0] : high[0], low[1] : high[1], low[2] : high[2]] += 1
        assert brick.volume <= max(limit, 4 * 8 * 16)
        inner = [a for a, b in zip(brick.start, box.start, strict=True) if a != b]
        sizes = [c for a, b, c in zip(brick.start, box.start, CHUNK, strict=True) if a != b]
        assert all(a % c == 0 for a, c in zip(inner, sizes, strict=True))
    assert (count == 1).all()


def test_a_journal_remembers_bricks_and_the_first_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = list(bricks(PLAN.box, CHUNK, PLAN.brick_voxels))
    journal = Journal(PLAN)
    journal.add(first[0])
    journal.add(first[3])
    journal.close()
    other = CopyPlan(PLAN.source, PLAN.target, PLAN.box, CHUNK, 9999, None)
    again = Journal(other)
    assert again.done == {first[0].start, first[3].start}
    assert again.plan == PLAN
    again.finish()
    with closing(Journal(other)) as empty:
        assert not empty.done


def test_a_torn_line_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = list(bricks(PLAN.box, CHUNK, PLAN.brick_voxels))
    journal = Journal(PLAN)
    for brick in first[:3]:
        journal.add(brick, (12, 345) if brick.start == first[1].start else None)
    journal.close()
    whole = journal.path.read_bytes()
    for cut in range(len(whole)):
        journal.path.write_bytes(whole[:cut])
        torn = Journal(PLAN)
        torn.add(first[5])
        torn.close()
        resumed = Journal(PLAN)
        resumed.close()
        complete = whole[:cut].count(b"done")
        assert resumed.done == {brick.start for brick in [*first[:complete], first[5]]}


def test_lines_with_zeros_count_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power loss leaves zeros where something was not on the disk yet: an ingest ended with an internal error."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = list(bricks(PLAN.box, CHUNK, PLAN.brick_voxels))[:6]
    with closing(Journal(PLAN)) as journal:
        for brick in first:
            journal.add(brick, (12, 345))
    whole = journal.path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for low in range(ends[0], len(whole)):
        for high in (low + 1, low + 7, low + 40):
            journal.path.write_bytes((whole[:low] + bytes(high - low) + whole[high:])[: len(whole)])
            with closing(Journal(PLAN)) as resumed:
                kept = [start > high or end <= low for start, end in pairwise(ends)]
                assert resumed.done == {
                    brick.start for brick, there in zip(first, kept, strict=True) if there
                }


def test_bricks_whose_records_are_gone_are_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = list(bricks(PLAN.box, CHUNK, PLAN.brick_voxels))
    with closing(Journal(PLAN)) as journal:
        for number, brick in enumerate(first[:4]):
            journal.add(brick, (number, number + 2) if number else None)
    with closing(Journal(PLAN, kept=lambda span: span == (2, 4))) as resumed:
        assert resumed.done == {first[0].start, first[2].start}


def test_another_target_has_another_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    journal = Journal(PLAN)
    journal.add(next(bricks(PLAN.box, CHUNK, PLAN.brick_voxels)))
    journal.close()
    with closing(Journal(CopyPlan("source", "elsewhere", PLAN.box, CHUNK, 512, None))) as other:
        assert not other.done
    with closing(Journal(PLAN, fresh=True)) as fresh:
        assert not fresh.done


def test_a_failure_ends_the_copy_and_names_it() -> None:
    done: list[Box] = []
    lock = threading.Lock()

    def copy(brick: Box) -> None:
        with lock:
            done.append(brick)
            if len(done) == 5:
                raise RuntimeError("disk on fire")

    many = list(bricks(Box((0, 0, 0), (4000, 8, 16)), CHUNK, 512))
    with pytest.raises(RuntimeError, match="disk on fire"):
        copy_bricks(many, copy, 2)
    assert len(done) < len(many)
