"""`dvidzarr export`: copy a box of an instance to a file."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np

from dvidzarr.cli.bricks import cores
from dvidzarr.cli.options import box as box_option
from dvidzarr.cli.options import box_text
from dvidzarr.cli.progress import Meter
from dvidzarr.cli.sinks import Export, finished, writer_for
from dvidzarr.cli.target import Place, open_target
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import Box
from dvidzarr.core.interrupts import interrupts_later

MIB = 1 << 20
LARGEST_BRICK = 64 * MIB
COPIES = 3
"""How often a brick lies in memory while it is copied: as received, as read, as encoded."""


@click.command()
@click.argument("store")
@click.argument("place", metavar="REF/INSTANCE")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--box",
    type=box_option,
    metavar="X0,Y0,Z0:X1,Y1,Z1",
    help="First voxel, and first one outside.  [default: all]",
)
@click.option(
    "--memory", type=click.IntRange(16), default=256, show_default=True, help="MiB that bricks may use."
)
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
def export(store: str, place: str, target: Path, box: Box | None, memory: int, overwrite: bool) -> None:
    """Copy an instance at a version, or a box of it, to TARGET.

    The name says the format: .tif (one page per z, BigTIFF when large), .h5 (dataset `volume`), or .npy, or
    .zarr (OME-Zarr 0.5, Zarr v3, array `0`). An unfinished file never bears the name TARGET.

    \b
    dvidzarr export my-store :master/grayscale out.zarr
    dvidzarr export http://127.0.0.1:8000 3f8c/grayscale part.tif --box 0,0,64:512,512,128
    """
    writer = writer_for(target)
    where = Place.parse(place)
    with open_target(store) as opened:
        volume = opened.volume(where.ref, where.name)
        whole = box or volume.info.extents
        if whole is None:
            raise InvalidInputError(f"instance {where.name!r} is empty at {volume.info.version}")
        workers, stop = cores(), threading.Event()
        itemsize = volume.info.dtype.itemsize
        job = Export(
            volume.info, whole, min(LARGEST_BRICK, memory * MIB // COPIES // workers) // itemsize, workers
        )
        with (
            finished(target, overwrite=overwrite) as partial,
            Meter("export", whole.volume * itemsize) as meter,
        ):

            def read(brick: Box) -> np.ndarray:
                if stop.is_set():
                    raise InterruptedError("the export was interrupted")
                voxels = volume.read(brick)
                meter.advance(voxels.nbytes)
                return voxels

            _unwound(lambda: writer(partial, job, read), stop)
        click.echo(
            f"{target}: {box_text(whole)} of {where.name} at {volume.info.version}, {meter.summary()}",
            err=True,
        )


def _unwound(work: Callable[[], None], stop: threading.Event) -> None:
    """Run `work` in a thread. On Ctrl-C set `stop` and wait for it to end.

    An interrupt in the thread that writes would leave zarr's own thread writing into a folder that is removed.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="export") as pool:
        try:
            # else the thread may have begun, and the pool not know of it
            with interrupts_later():
                future = pool.submit(work)
            future.result()
        except KeyboardInterrupt:
            stop.set()
            with interrupts_later():  # also if it is pressed twice
                pool.shutdown()
            raise
