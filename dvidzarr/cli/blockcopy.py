"""Copying a volume block by block: absent blocks stay absent, and what the target shows already is not written."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import click
import numpy as np

from dvidzarr.cli.bricks import CopyPlan, Journal
from dvidzarr.cli.copying import absolute, extents_after, work_off
from dvidzarr.cli.options import box_text
from dvidzarr.cli.target import Volume
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX, Box

MIB = 1 << 20
LARGEST_BRICK = 32 * MIB
LARGEST_GRID = 256 * MIB
"""Bricks are cut where the blocks of both sides end; that far apart at most."""

COPIES = 6
"""How often a brick lies in memory: as received, as decoded, as cut anew, as it is now, as written, as encoded."""

Blocks = Mapping[ZYX, np.ndarray]


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How to copy.

    Attributes
    ----------
    box
        What to copy, in voxels; None: the extents of the source.
    memory
        Bytes that bricks may use at a time.
    mirror
        Make the target what the source is: blocks that it alone has become 0, and its extents those of the source.
    """

    workers: int
    memory: int
    fresh: bool = False
    box: Box | None = None
    mirror: bool = False


def plan_of(origin: str, source: Volume, where: str, target: Volume, options: CopyOptions) -> CopyPlan | None:
    """Return the plan of a copy from a server to a store, None if there is nothing to copy."""
    box = options.box or source.info.extents
    if box is None:
        return None
    grid = _common_grid(source, target)
    brick_bytes = min(LARGEST_BRICK, options.memory // (COPIES * options.workers))
    return CopyPlan(
        source=f"{origin} {source.info.version} {source.info.name} {source.info.data_uuid}",
        target=f"{absolute(where)} {target.info.data_uuid} {target.info.version}",
        box=box.aligned(grid),
        chunk=grid,
        brick_voxels=brick_bytes // source.info.dtype.itemsize,
        extents=target.info.extents,
    )


def copy_volume(source: Volume, target: Volume, plan: CopyPlan, options: CopyOptions) -> None:
    """Copy the blocks that differ, then the extents."""
    journal = Journal(plan, fresh=options.fresh, kept=target.kept)

    def copy(brick: Box) -> None:
        found = _regridded(dict(source.blocks(brick)), brick, source.info.chunk, target.info.chunk)
        present = dict(target.blocks(brick))
        changed = {
            coord: block
            for coord, block in found.items()
            if coord not in present or not _same(block, present[coord])
        }
        if options.mirror:
            gone = (coord for coord, block in present.items() if coord not in found and block.any())
            changed |= {coord: np.zeros(target.info.chunk, target.info.dtype) for coord in gone}
        if changed:
            target.write_blocks(list(changed), np.stack(list(changed.values())))

    summary = work_off(journal, target, source.info.dtype.itemsize, options.workers, copy)
    _take_extents(source, target, journal.plan, options)
    journal.finish()
    shown = box_text(options.box or source.info.extents)
    click.echo(f"{target.info.name} at {target.info.version}: {shown}, {summary}", err=True)


def _take_extents(source: Volume, target: Volume, plan: CopyPlan, options: CopyOptions) -> None:
    extents = source.info.extents
    if extents is not None and options.box is not None:
        extents = extents.intersect(options.box)
    if extents is None:
        return
    now = target.extents()
    wanted = extents if options.mirror else extents_after(extents, plan, now)
    if wanted != now:
        target.set_extents(wanted)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Compare bytes: a float that is no number equals itself here."""
    return np.array_equal(one.view(np.uint8), other.view(np.uint8))


def _common_grid(source: Volume, target: Volume) -> ZYX:
    z, y, x = (math.lcm(a, b) for a, b in zip(source.info.chunk, target.info.chunk, strict=True))
    if z * y * x * source.info.dtype.itemsize > LARGEST_GRID:
        raise InvalidInputError(
            f"blocks of {source.info.chunk} and {target.info.chunk} voxels (z, y, x) have common edges only every "
            f"{(z, y, x)} voxels: choose a --block-size that is a multiple of the source's"
        )
    return (z, y, x)


def _regridded(blocks: Blocks, brick: Box, old: ZYX, new: ZYX) -> Blocks:
    """Return the blocks of a brick cut on another grid; those that hold a part of an old one exist."""
    if old == new or not blocks:
        return blocks
    first = next(iter(blocks.values()))
    dense = np.zeros(brick.shape, first.dtype)
    exists: set[ZYX] = set()
    for coord, block in blocks.items():
        place = Box.of_chunk(coord, old)
        dense[place.slices(brick.start)] = block
        exists.update(tuple(each) for each in place.chunks(new).coords().tolist())
    return {
        coord: np.ascontiguousarray(dense[Box.of_chunk(coord, new).slices(brick.start)])
        for coord in sorted(exists)
    }
