"""`dvidzarr ingest`: copy a source into an instance, in bricks on the chunk grid, resumable."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import click
import numpy as np

from dvidzarr.cli.bricks import CopyPlan, Journal, bricks, copy_bricks, cores
from dvidzarr.cli.options import XYZ, box_text, integers, sizes
from dvidzarr.cli.progress import Meter
from dvidzarr.cli.source import Source
from dvidzarr.cli.sources import open_source
from dvidzarr.cli.target import Place, StoreKind, Target, Volume, is_url, open_target
from dvidzarr.core.errors import InvalidInputError, NotFoundError, VersionLockedError
from dvidzarr.core.geometry import Box

MIB = 1 << 20
LARGEST_BRICK = 64 * MIB
COPIES = 4
"""How often a brick lies in memory while it is copied: as read, as padded, as sent, as encoded."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What the command line says about a copy."""

    offset: tuple[int, int, int]
    voxel_size: tuple[float, float, float] | None
    units: str
    block_size: tuple[int, int, int]
    create: bool
    workers: int
    memory: int
    fresh: bool


@click.command()
@click.argument("store")
@click.argument("place", metavar="REF/INSTANCE")
@click.argument("source")
@click.option("--dataset", metavar="NAME", help="Which array, if the file or group holds several.")
@click.option(
    "--offset",
    type=integers(),
    metavar=XYZ,
    default="0,0,0",
    show_default=True,
    help="Where the first voxel goes.",
)
@click.option(
    "--voxel-size",
    type=sizes,
    metavar=XYZ,
    help="Of a new instance.  [default: the source's, or 8,8,8]",
)
@click.option("--units", default="nanometers", show_default=True, help="Of the voxel size.")
@click.option(
    "--block-size",
    type=integers(1, single=True),
    metavar=XYZ,
    default="64",
    show_default=True,
    help="Of a new instance.",
)
@click.option(
    "--create/--no-create", default=True, show_default=True, help="Make the instance if it is missing."
)
@click.option("--workers", type=click.IntRange(1, 64), help="Threads.  [default: one per core, at most 4]")
@click.option(
    "--memory",
    type=click.IntRange(16),
    default=512,
    show_default=True,
    help="MiB that bricks may use at a time.",
)
@click.option("--fresh", is_flag=True, help="Begin anew, even if an earlier run was interrupted.")
def ingest(store: str, place: str, source: str, dataset: str | None, fresh: bool, **options: object) -> None:
    """Copy SOURCE into an instance at a version.

    SOURCE is a folder of images or a TIFF stack, an HDF5 dataset (file.h5:/path), a .npy or .npz file, or a
    Zarr array, v2 or v3, in a folder, a .zip or at any URL that fsspec knows. Axes are z, y, x.

    The copy runs in bricks of whole blocks. Run the same command again after Ctrl-C, a kill or a crash: it
    goes on where it was. Border blocks keep what they hold outside the source (0 where there is nothing).

    \b
    dvidzarr ingest my-store :master/grayscale stack.tif --voxel-size 4.6,4.6,50
    dvidzarr ingest http://127.0.0.1:8000 3f8c/grayscale volume.h5:/raw --offset 0,0,640
    """
    where = Place.parse(place)
    chosen = _options(fresh=fresh, options=options)
    opened = open_source(source, dataset)
    try:
        with open_target(store, StoreKind(write=True)) as target:
            run(target, where, opened, chosen)
    except KeyboardInterrupt:
        click.echo("dvidzarr: interrupted; run the same command again to go on", err=True)
        raise
    finally:
        opened.close()


def run(target: Target, place: Place, source: Source, options: IngestOptions) -> None:
    """Copy a source into an instance of a target; the instance is made if it is missing."""
    volume = _volume(target, place, source, options)
    box = Box.from_xyz(options.offset, source.shape[::-1])
    itemsize = volume.info.dtype.itemsize
    plan = CopyPlan(
        source=source.identity,
        target=f"{_absolute(target.where)} {volume.info.data_uuid} {volume.info.version}",
        box=box,
        chunk=volume.info.chunk,
        brick_voxels=min(LARGEST_BRICK, options.memory * MIB // (COPIES * options.workers)) // itemsize,
        extents=volume.info.extents,
    )
    journal = Journal(plan, fresh=options.fresh)
    try:
        _copy(volume, source, journal, options.workers)
    finally:
        journal.close()
    journal.finish()


def _copy(volume: Volume, source: Source, journal: Journal, workers: int) -> None:
    plan, itemsize = journal.plan, volume.info.dtype.itemsize
    todo = [
        brick for brick in bricks(plan.box, plan.chunk, plan.brick_voxels) if brick.start not in journal.done
    ]
    total = plan.box.volume * itemsize
    before = total - sum(brick.volume for brick in todo) * itemsize
    if before:
        click.echo(f"going on: {100 * before // total} % was done before", err=True)
    with Meter("ingest", total, before) as meter:

        def copy(brick: Box) -> None:
            voxels = source.read(_moved(brick, plan.box))
            volume.write(brick, voxels)
            journal.add(brick)
            meter.advance(voxels.nbytes)

        copy_bricks(todo, copy, workers)
    volume.set_extents(plan.box.union(plan.extents) if plan.extents else plan.box)
    click.echo(
        f"{volume.info.name} at {volume.info.version}: {box_text(plan.box)}, {meter.summary()}", err=True
    )


def _volume(target: Target, place: Place, source: Source, options: IngestOptions) -> Volume:
    """Open the instance, made first if it is missing, and check that the source fits it."""
    if not target.has_instance(place.ref, place.name):
        if not options.create:
            raise NotFoundError(f"there is no instance {place.name!r} and --no-create was given")
        type_name = f"{source.dtype.name}blk"
        if type_name not in target.type_names():
            raise InvalidInputError(
                f"the source holds {source.dtype.name} voxels, and there is no type {type_name} for a new "
                f"instance {place.name!r} here: convert the source, uint8 is what uint8blk takes"
            )
        target.create_instance(place.ref, type_name, place.name, _config(source, options))
    volume = target.volume(place.ref, place.name)
    info = volume.info
    if np.dtype(source.dtype).newbyteorder("=") != np.dtype(info.dtype).newbyteorder("="):
        raise InvalidInputError(
            f"the source holds {source.dtype.name} voxels, instance {place.name!r} holds {info.dtype.name}"
        )
    if info.locked:
        raise VersionLockedError(
            f"version {info.version} is locked: make a child "
            f"(`dvidzarr newversion {target.where} {info.version}`) and ingest into that"
        )
    return volume


def _config(source: Source, options: IngestOptions) -> Mapping[str, str]:
    size = options.voxel_size or source.voxel_size_xyz or (8.0, 8.0, 8.0)
    return {
        "BlockSize": ",".join(map(str, options.block_size)),
        "VoxelSize": ",".join(f"{value:g}" for value in size),
        "VoxelUnits": ",".join([options.units] * 3),
    }


def _options(*, fresh: bool, options: Mapping[str, object]) -> IngestOptions:
    workers = options["workers"] or cores()
    return IngestOptions(**{**options, "workers": workers, "fresh": fresh})  # type: ignore[arg-type]


def _moved(brick: Box, whole: Box) -> Box:
    """Return a brick in the coordinates of the source, which begins at 0."""
    z, y, x = whole.start
    a, b = brick.start, brick.stop
    return Box((a[0] - z, a[1] - y, a[2] - x), (b[0] - z, b[1] - y, b[2] - x))


def _absolute(where: str) -> str:
    """Return a target independent of the working folder: copies of a store share ids, not this."""
    return where if is_url(where) else os.path.realpath(where)
