"""What all copies into an instance share: working off the bricks of a journal, with a meter."""

import os
from collections.abc import Callable

import click

from dvidzarr.cli.bricks import CopyPlan, Journal, bricks, copy_bricks
from dvidzarr.cli.progress import Meter
from dvidzarr.cli.target import Volume, is_url
from dvidzarr.core.geometry import Box


def work_off(
    journal: Journal, target: Volume, itemsize: int, workers: int, copy: Callable[[Box], None]
) -> str:
    """Call `copy` for each brick that `target` lacks and journal it; return what this run did, in words.

    The journal is forgotten when all is done, and closed in any case.
    """
    plan = journal.plan
    todo = [
        brick for brick in bricks(plan.box, plan.chunk, plan.brick_voxels) if brick.start not in journal.done
    ]
    total = plan.box.volume * itemsize
    before = total - sum(brick.volume for brick in todo) * itemsize
    if before:
        click.echo(f"going on: {100 * before // total} % was done before", err=True)
    try:
        with Meter("ingest", total, before) as meter:

            def step(brick: Box) -> None:
                before = target.position
                copy(brick)
                after = target.position
                journal.add(brick, None if before is None or after is None else (before, after))
                meter.advance(brick.volume * itemsize)

            copy_bricks(todo, step, workers)
    finally:
        journal.close()
    return meter.summary()


def extents_after(copied: Box, plan: CopyPlan, now: Box | None) -> Box:
    """Return what a version spans after a copy: what it did before, the box, and what others wrote meanwhile.

    Writing whole blocks has grown the extents to whole blocks, which is taken back; a side that lies beyond those is
    somebody else's: another copy, at the same time or while this one was interrupted.
    """
    wanted = copied.union(plan.extents) if plan.extents else copied
    if now is None:
        return wanted
    mine = wanted.union(plan.box.aligned(plan.chunk))
    return Box.of(
        [
            at if at < low else exact
            for at, low, exact in zip(now.start, mine.start, wanted.start, strict=True)
        ],
        [
            at if at > high else exact
            for at, high, exact in zip(now.stop, mine.stop, wanted.stop, strict=True)
        ],
    )


def absolute(where: str) -> str:
    """Return a target independent of the working folder: copies of a store share ids, not this."""
    return where if is_url(where) else os.path.realpath(where)
