"""`dvidzarr ingest`: copy a source into an instance, in bricks on the chunk grid, resumable."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from dvidzarr.cli.blockcopy import MIB, CopyOptions
from dvidzarr.cli.bricks import CopyPlan, Journal, cores
from dvidzarr.cli.checks import check_open
from dvidzarr.cli.copying import absolute, extents_after, work_off
from dvidzarr.cli.options import XYZ, box_text, integers, sizes
from dvidzarr.cli.options import box as box_option
from dvidzarr.cli.source import Source
from dvidzarr.cli.sources import open_source
from dvidzarr.cli.target import Place, Target, Volume, open_target
from dvidzarr.core.errors import InvalidInputError, NotFoundError
from dvidzarr.core.geometry import Box

if TYPE_CHECKING:
    import numpy as np

LARGEST_BRICK = 64 * MIB
COPIES = 4
"""How often a brick lies in memory while it is copied: as read, as padded, as sent, as encoded."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What the command line says about a copy."""

    type: str | None
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
    "--type",
    metavar="NAME",
    help="Datatype of a new instance, such as labelblk.  [default: that of the numbers]",
)
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
    help="Of a new instance.  [default: 64, or the DVID instance's]",
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
@click.option(
    "--box",
    type=box_option,
    metavar="X0,Y0,Z0:X1,Y1,Z1",
    help="What to copy of a DVID.  [default: its extents]",
)
@click.option("--versions", is_flag=True, help="Copy a DVID's version with all its ancestors.")
def ingest(
    store: str,
    place: str,
    source: str,
    dataset: str | None,
    box: Box | None,
    versions: bool,
    **options: object,
) -> None:
    """Copy SOURCE into an instance at a version.

    SOURCE is a folder of images or a TIFF stack, an HDF5 dataset (file.h5:/path), a .npy or .npz file, a
    Zarr array, v2 or v3, in a folder, a .zip or at any URL that fsspec knows (axes are z, y, x), or an instance
    of a running DVID or dvidzarr server: dvid://host:port/uuid/instance (dvid://https://host/… for TLS; a
    token goes into the variable DVID_SOURCE_TOKEN).

    The copy runs in bricks of whole blocks. Run the same command again after Ctrl-C, a kill or a crash: it
    goes on where it was. Border blocks keep what they hold outside the source (0 where there is nothing).

    From a DVID whole blocks are copied, with the settings of the instance; what was never written stays so.
    With --versions the history is made anew: REF becomes the root of the source (made, in a repo of its own, if it
    is the UUID of that root and does not exist; so is the store), and each further version holds only the blocks
    in which it differs. Branches, notes and free UUIDs are kept. Several instances: REF/a,b and dvid://…/a,b.
    Regions of interest and key-values are copied in the same way.

    \b
    dvidzarr ingest my-store :master/grayscale stack.tif --voxel-size 4.6,4.6,50
    dvidzarr ingest http://127.0.0.1:8000 3f8c/grayscale volume.h5:/raw --offset 0,0,640
    dvidzarr ingest my-store :master/grayscale dvid://emdata:8000/:master/grayscale
    dvidzarr ingest my-store 28841c82…/gray,seg dvid://emdata:8000/3f8c/gray,seg --versions
    """
    where = Place.parse(place)
    chosen = _options(options)
    from_dvid = source.startswith("dvid://")
    _refuse_unfit(_ONLY_OTHERS if from_dvid else _ONLY_DVID, source)
    try:
        if from_dvid:
            _from_dvid(store, where, source, chosen, box, versions=versions)
            return
        with (
            open_target(store, write=True) as target,
            closing(open_source(source, dataset)) as opened,
        ):
            run(target, where, opened, chosen)
    except KeyboardInterrupt:
        click.echo("dvidzarr: interrupted; run the same command again to go on", err=True)
        raise


_ONLY_DVID = ("box", "versions")
_ONLY_OTHERS = ("dataset", "offset", "type", "units")


def _refuse_unfit(names: tuple[str, ...], source: str) -> None:
    """Raise for an option that says nothing about this kind of source: ignoring it would surprise."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} does not go with the source {source}")


def _from_dvid(
    store: str, place: Place, source: str, chosen: IngestOptions, box: Box | None, *, versions: bool
) -> None:
    from dvidzarr.cli.migrate import Origin, migrate  # noqa: PLC0415 - httpx is not needed for files

    given = click.get_current_context().get_parameter_source("block_size") is not ParameterSource.DEFAULT
    config = {"BlockSize": ",".join(map(str, chosen.block_size))} if given else {}
    if chosen.voxel_size:
        config["VoxelSize"] = ",".join(map(str, chosen.voxel_size))
    options = CopyOptions(chosen.workers, chosen.memory * MIB, chosen.fresh, box)
    opened = partial(open_target, store, write=True, create=versions)
    migrate(opened, place, Origin.parse(source), options, config, create=chosen.create, versions=versions)


def run(target: Target, place: Place, source: Source, options: IngestOptions) -> None:
    """Copy a source into an instance of a target; the instance is made if it is missing."""
    volume = _volume(target, place, source, options)
    box = Box.from_xyz(options.offset, source.shape[::-1])
    itemsize = volume.info.dtype.itemsize
    plan = CopyPlan(
        source=source.identity,
        target=f"{absolute(target.where)} {volume.info.data_uuid} {volume.info.version}",
        box=box,
        chunk=volume.info.chunk,
        brick_voxels=min(LARGEST_BRICK, options.memory * MIB // (COPIES * options.workers)) // itemsize,
        extents=volume.info.extents,
    )
    journal = Journal(plan, fresh=options.fresh, kept=volume.kept)

    def copy(brick: Box) -> None:
        voxels = source.read(_moved(brick, box))
        volume.write(brick, voxels.astype(volume.info.dtype, copy=False))

    summary = work_off(journal, volume, itemsize, options.workers, copy)
    volume.set_extents(extents_after(box, journal.plan, volume.extents()))
    journal.finish()
    click.echo(f"{volume.info.name} at {volume.info.version}: {box_text(box)}, {summary}", err=True)


def _volume(target: Target, place: Place, source: Source, options: IngestOptions) -> Volume:
    """Open the instance, made first if it is missing, and check that the source fits it."""
    if not target.has_instance(place.ref, place.name):
        if not options.create:
            raise NotFoundError(f"there is no instance {place.name!r} and --no-create was given")
        type_name = options.type or f"{source.dtype.name}blk"
        if type_name not in target.type_names():
            raise InvalidInputError(
                f"the source holds {source.dtype.name} voxels, and there is no type {type_name} for a new "
                f"instance {place.name!r} here: convert the source, uint8 is what uint8blk takes"
            )
        _check_type(type_name, place.name, source.dtype)
        target.create_instance(place.ref, type_name, place.name, _config(source, options))
    volume = target.volume(place.ref, place.name)
    _check_fits(place.name, source.dtype, volume.info.dtype)
    check_open(target, volume.info)
    return volume


def _check_type(type_name: str, name: str, given: "np.dtype[np.generic]") -> None:
    """Raise before an instance is made that could not take these numbers; of types that are unknown here nothing is said."""
    from dvidzarr.datatypes import BUILTIN  # noqa: PLC0415 - what help need not load

    if type_name not in BUILTIN:
        return
    held = getattr(BUILTIN[type_name].instance, "dtype", None)
    if held is None:
        raise InvalidInputError(f"type {type_name} for a new instance {name!r}: it holds no voxels")
    _check_fits(name, given, held)


def _check_fits(name: str, given: "np.dtype[np.generic]", held: "np.dtype[np.generic]") -> None:
    """Raise unless numbers can go in as they are; ids may get wider."""
    wider = given.kind == held.kind == "u" and given.itemsize < held.itemsize
    if not wider and given.newbyteorder("=") != held.newbyteorder("="):
        raise InvalidInputError(f"the source holds {given.name} voxels, instance {name!r} holds {held.name}")


def _config(source: Source, options: IngestOptions) -> Mapping[str, str]:
    size = options.voxel_size or source.voxel_size_xyz or (8.0, 8.0, 8.0)
    return {
        "BlockSize": ",".join(map(str, options.block_size)),
        "VoxelSize": ",".join(f"{value:g}" for value in size),
        "VoxelUnits": ",".join([options.units] * 3),
    }


def _options(options: Mapping[str, object]) -> IngestOptions:
    workers = options["workers"] or cores()
    return IngestOptions(**{**options, "workers": workers})  # type: ignore[arg-type]


def _moved(brick: Box, whole: Box) -> Box:
    """Return a brick in the coordinates of the source, which begins at 0."""
    z, y, x = whole.start
    a, b = brick.start, brick.stop
    return Box((a[0] - z, a[1] - y, a[2] - x), (b[0] - z, b[1] - y, b[2] - x))
