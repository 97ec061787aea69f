"""`dvidzarr demo`: a store to try things on, made from a seed."""

from pathlib import Path

import click
import numpy as np

from dvidzarr.cli.bricks import bricks, copy_bricks, cores
from dvidzarr.cli.options import XYZ, integers, sizes
from dvidzarr.cli.progress import Meter
from dvidzarr.cli.sinks import Export, finished, writer_for
from dvidzarr.cli.synthetic import Synthetic
from dvidzarr.cli.target import Target, VolumeInfo, is_url, open_target
from dvidzarr.core.errors import ConflictError
from dvidzarr.core.geometry import ZYX, Box

BLOCK: ZYX = (64, 64, 64)
BRICK = 2 << 20
"""Voxels made at a time: seconds of work, so that the bar moves."""
ALIAS = "demo"


@click.command()
@click.argument("store")
@click.option(
    "--size", type=integers(1, single=True), metavar=XYZ, default="256", show_default=True, help="Voxels."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same volume.")
@click.option(
    "--voxel-size",
    type=sizes,
    metavar=XYZ,
    default="8",
    show_default=True,
    help="In nm; 4,4,40 is like serial sections.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="Also write the cells (uint64) to FILE: .npy, .zarr, .h5, .tif.",
)
def demo(
    store: str, size: ZYX, seed: int, voxel_size: tuple[float, float, float], labels: Path | None
) -> None:
    """Make a repo `demo` in STORE (made if missing) with generated EM-like data.

    The instance `grayscale` has three versions: the locked root, a child where an artefact was painted out,
    and a branch `smoothed` with a filtered region. Any size will do: the volume is made block by block.
    """
    volume = Synthetic(seed, voxel_size)
    box = Box((0, 0, 0), (size[2], size[1], size[0]))
    if labels:
        _write_labels(labels, volume, box)
    with open_target(store, write=True, create=True) as target:
        if any(repo.alias == ALIAS for repo in target.repos()):
            raise ConflictError(
                f"{store} holds a repo {ALIAS!r} already: choose another store, or delete it first"
            )
        root = target.create_repo(ALIAS, f"generated volume, seed {seed}", None)
        _fill(target, root, volume, box)
        target.commit(root, "generated image")
        _edit_child(target, target.new_version(root, "artefact painted out"), box)
        _edit_branch(target, target.branch(root, "smoothed", "region smoothed"), box)
    then = "" if is_url(store) else f" and `dvidzarr serve {store}`"
    click.echo(f"repo {root}: try `dvidzarr repos {store}`{then}")


def _fill(target: Target, root: str, volume: Synthetic, box: Box) -> None:
    config = {
        "BlockSize": ",".join(map(str, BLOCK)),
        "VoxelSize": ",".join(f"{value:g}" for value in volume.voxel_size_xyz),
    }
    target.create_instance(root, "uint8blk", "grayscale", config)
    grayscale = target.volume(root, "grayscale")
    with Meter("grayscale", box.volume) as meter:

        def make(brick: Box) -> None:
            grayscale.write(brick, volume.grayscale(brick))
            meter.advance(brick.volume)

        copy_bricks(bricks(box, BLOCK, BRICK), make, cores())
    grayscale.set_extents(box)


def _edit_child(target: Target, version: str, box: Box) -> None:
    """Replace a blob by the mean gray, as a proofreader hides an artefact."""
    grayscale = target.volume(version, "grayscale")
    part = _middle(box)
    voxels = grayscale.read(part).copy()
    radius = np.sqrt(sum((np.linspace(-1, 1, size) ** 2).reshape(shape) for size, shape in _axes(part)))
    voxels[radius < 0.8] = int(voxels.mean())
    grayscale.write(part, voxels)
    grayscale.set_extents(box)


def _edit_branch(target: Target, version: str, box: Box) -> None:
    """Average each voxel of a region with its neighbours in the section."""
    grayscale = target.volume(version, "grayscale")
    part = _middle(box)
    wide = np.pad(grayscale.read(part).astype(np.uint16), ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = part.shape[1:]
    total = sum(wide[:, y : y + height, x : x + width] for y in range(3) for x in range(3))
    grayscale.write(part, (np.asarray(total) // 9).astype(np.uint8))
    grayscale.set_extents(box)


def _axes(part: Box) -> tuple[tuple[int, tuple[int, ...]], ...]:
    return tuple(
        (size, tuple(-1 if axis == other else 1 for other in range(3)))
        for axis, size in enumerate(part.shape)
    )


def _middle(box: Box) -> Box:
    """Return the block in the middle, cut to the box."""
    low = [(size // 2) // edge * edge for size, edge in zip(box.shape, BLOCK, strict=True)]
    return Box.of(low, (min(a + edge, stop) for a, edge, stop in zip(low, BLOCK, box.stop, strict=True)))


def _write_labels(path: Path, volume: Synthetic, box: Box) -> None:
    info = VolumeInfo("labels", "", "", False, np.dtype(np.uint64), BLOCK, box, volume.voxel_size_xyz)
    writer = writer_for(path)
    with finished(path, overwrite=False) as partial, Meter("labels", box.volume * 8) as meter:

        def read(brick: Box) -> np.ndarray:
            voxels = volume.labels(brick)
            meter.advance(voxels.nbytes)
            return voxels

        writer(partial, Export(info, box, BRICK, cores()), read)
