"""Where ingested voxels come from: images, TIFF, HDF5, NumPy, Zarr; each read by boxes, never whole."""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from dvidzarr.cli.source import SPATIAL, Mapped, Source, from_array, nothing, triple
from dvidzarr.core.errors import InvalidInputError, NotFoundError
from dvidzarr.core.geometry import Box

if TYPE_CHECKING:
    import zarr

IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
TIFF = (".tif", ".tiff", ".btf", ".tf8")
HDF5 = (".h5", ".hdf5", ".hdf", ".he5", ".n5h5", ".mat")


def open_source(text: str, dataset: str | None = None) -> Source:
    """Open a SOURCE argument.

    Parameters
    ----------
    text
        Path of a folder of images, a TIFF, HDF5 (`file.h5:/path`), `.npy`, `.npz` or image file, of a Zarr
        array or group (v2 or v3, also zipped), or a URL that fsspec knows.
    dataset
        Which array, where the file or group holds several.

    Raises
    ------
    NotFoundError, InvalidInputError
        Nothing there, or nothing that can be read as a volume of numbers.
    """
    if "://" in text:
        return open_zarr(text, dataset)
    path, inner = _split(text)
    if not path.exists():
        raise NotFoundError(f"there is no source at {path}")
    if path.is_dir():
        is_zarr = any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))
        return open_zarr(str(path), dataset) if is_zarr else open_images(path)
    suffix = path.suffix.lower()
    for suffixes, opener in OPENERS:
        if suffix in suffixes:
            return opener(path, dataset or inner)
    known = ", ".join(sorted(suffix for suffixes, _ in OPENERS for suffix in suffixes))
    raise InvalidInputError(
        f"cannot tell the format of {path}: known are {known}, folders of images, and Zarr"
    )


def open_images(folder: Path) -> Source:
    """Open a folder of images as a stack in natural order (2 before 10), one file per z."""
    files = sorted((file for file in folder.iterdir() if file.suffix.lower() in IMAGES), key=natural)
    if not files:
        raise NotFoundError(f"{folder} holds neither images ({', '.join(IMAGES)}) nor a Zarr array")
    first = read_image(files[0])
    height, width = first.shape

    def read(box: Box) -> np.ndarray:
        out = np.empty(box.shape, first.dtype)
        rows, columns = (slice(box.start[axis], box.stop[axis]) for axis in (1, 2))
        for index, file in enumerate(files[box.start[0] : box.stop[0]]):
            image = read_image(file)
            if image.shape != first.shape or image.dtype != first.dtype:
                raise InvalidInputError(
                    f"{file} is {image.shape[1]} × {image.shape[0]} {image.dtype}, "
                    f"but {files[0].name} is {width} × {height} {first.dtype}"
                )
            out[index] = image[rows, columns]
        return out

    stats = "".join(_stamp(file) for file in files)
    return Source(stats, (len(files), height, width), first.dtype, read, nothing)


def read_image(file: Path) -> np.ndarray:
    """Decode one gray image."""
    if file.suffix.lower() in TIFF:
        import tifffile  # noqa: PLC0415 - heavy, and only for this format

        try:
            image = tifffile.imread(file)
        except (ValueError, tifffile.TiffFileError) as error:
            raise InvalidInputError(f"cannot read {file}: {error}") from error
    else:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

        try:
            with Image.open(file) as opened:
                image = np.asarray(opened)
        except UnidentifiedImageError as error:
            raise InvalidInputError(f"{file} is not an image that can be read") from error
    image = image.reshape(image.shape[-2:]) if image.size == np.prod(image.shape[-2:]) else image
    if image.ndim != SPATIAL - 1:
        raise InvalidInputError(f"{file} has shape {image.shape}: a stack takes gray images of one plane")
    return image


def open_tiff(path: Path, dataset: str | None) -> Source:
    """Open the one series of a TIFF: memory-mapped if stored plainly, else by its strips and tiles."""
    import tifffile  # noqa: PLC0415

    _none(dataset, path)
    try:
        file = tifffile.TiffFile(path)
        if len(file.series) > 1:  # a stack written page by page looks like many volumes of one page
            file.close()
            file = tifffile.TiffFile(path, is_shaped=False)
        series = file.series
    except tifffile.TiffFileError as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from error
    if len(series) != 1:
        file.close()
        shapes = ", ".join(str(item.shape) for item in series[:8])
        raise InvalidInputError(
            f"{path} holds {len(series)} images of different shapes ({shapes}): expected one stack"
        )
    stack = series[0]
    if stack.dataoffset is not None:
        dtype, offset, shape = stack.dtype.newbyteorder(file.byteorder), stack.dataoffset, stack.shape
        mapped = Mapped(lambda: np.memmap(path, dtype, "r", offset, shape))
        return from_array(mapped, _stamp(path), str(path), file.close)
    import zarr  # noqa: PLC0415

    return from_array(zarr.open_array(stack.aszarr(), mode="r"), _stamp(path), str(path), file.close)


def open_hdf5(path: Path, dataset: str | None) -> Source:
    """Open a dataset of an HDF5 file; without a name, the only one there is."""
    import h5py  # noqa: PLC0415

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InvalidInputError(f"cannot read {path} as HDF5: {error}") from error
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    name = _chosen(found, dataset, str(path))
    array = file[name]
    size = array.attrs.get("voxel_size_xyz")
    voxel_size = None if size is None else triple(np.asarray(size).tolist())
    return from_array(array, _stamp(path) + name, f"{path}:/{name}", file.close, voxel_size)


def open_npy(path: Path, dataset: str | None) -> Source:
    """Open a `.npy` file memory-mapped."""
    _none(dataset, path)
    try:
        mapped = Mapped(lambda: np.load(path, mmap_mode="r"))
        return from_array(mapped, _stamp(path), str(path), nothing)
    except ValueError as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from error


def open_npz(path: Path, dataset: str | None) -> Source:
    """Open an array of a `.npz` file, unpacked to a temporary one: it cannot be read in parts."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            name = _chosen(names, dataset, str(path))
            unpacked: IO[bytes] = tempfile.NamedTemporaryFile(suffix=".npy")  # noqa: SIM115 - closed by Source.close
            with archive.open(f"{name}.npy") as member:
                shutil.copyfileobj(member, unpacked, 1 << 20)
        unpacked.flush()
        mapped = Mapped(lambda: np.load(unpacked.name, mmap_mode="r"))
    except (zipfile.BadZipFile, ValueError) as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from error
    return from_array(mapped, _stamp(path) + name, f"{path}:{name}", unpacked.close)


def open_zarr(url: str, dataset: str | None) -> Source:
    """Open a Zarr array, v2 or v3, or an array of a group; of an OME-Zarr pyramid, the finest."""
    import zarr  # noqa: PLC0415

    store: Any = zarr.storage.ZipStore(url, mode="r") if url.endswith(".zip") and "://" not in url else url
    try:
        node = zarr.open(store, mode="r")
        voxel_size = None
        name = ""
        if isinstance(node, zarr.Group):
            name = dataset or _finest(node) or _chosen(sorted(key for key, _ in node.arrays()), None, url)
            voxel_size = _ome_scale(node, name)
            node = node[name]
    except ImportError as error:
        raise InvalidInputError(f"cannot open {url}: {error}") from error
    except (KeyError, ValueError, FileNotFoundError, zipfile.BadZipFile) as error:
        raise NotFoundError(
            f"there is no Zarr array{f' {dataset!r}' if dataset else ''} at {url}: {error}"
        ) from error
    if not isinstance(node, zarr.Array):
        raise InvalidInputError(f"{url}: {name!r} is a group, not an array")
    names = tuple(getattr(node.metadata, "dimension_names", None) or ())  # Zarr v2 has none
    if names[-SPATIAL:] == ("x", "y", "z"):
        raise InvalidInputError(
            f"{url} is stored as x, y, z; volumes are read as z, y, x: rewrite it transposed"
        )
    identity = f"zarr {_zarr_stamp(url, node)} {name} {node.shape} {node.dtype}"
    return from_array(node, identity, f"{url} {name}".strip(), nothing, voxel_size)


def _zarr_stamp(url: str, array: "zarr.Array[Any]") -> str:
    """Return what tells an array in a folder or a zip from another one that lay or lies at a path of the same words."""
    if "://" in url:
        return url
    path = Path(url)
    metadata = (path / array.path / file for file in ("zarr.json", ".zarray"))
    return "".join(_stamp(file) for file in (path, *metadata) if file.is_file()) or str(path.resolve())


OPENERS: tuple[tuple[tuple[str, ...], Callable[[Path, str | None], Source]], ...] = (
    (TIFF, open_tiff),
    (HDF5, open_hdf5),
    ((".npy",), open_npy),
    ((".npz",), open_npz),
    ((".zip",), lambda path, dataset: open_zarr(str(path), dataset)),
    (
        (".png", ".jpg", ".jpeg", ".bmp"),
        lambda path, _: from_array(read_image(path), _stamp(path), str(path), nothing),
    ),
)


def natural(file: Path) -> list[tuple[int, str]]:
    """Return a sort key by which `slice2` comes before `slice10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _split(text: str) -> tuple[Path, str | None]:
    """Split `file.h5:/inner/path`; a colon in the name of an existing file is left alone."""
    outer, colon, inner = text.rpartition(":/")
    if colon and Path(outer).is_file() and not Path(text).exists():
        return Path(outer), inner.strip("/")
    return Path(text), None


def _chosen(names: Sequence[str], wanted: str | None, named: str) -> str:
    """Return the array that is wanted, or the only one."""
    wanted = wanted.strip("/") if wanted else None
    if wanted in names or (wanted is None and len(names) == 1):
        return wanted or names[0]
    listed = ", ".join(names[:20]) or "none"
    if wanted is None:
        raise InvalidInputError(f"{named} holds {len(names)} arrays ({listed}): say which with --dataset")
    raise NotFoundError(f"{named} has no array {wanted!r}; it holds {listed}")


def _finest(group: "zarr.Group") -> str | None:
    """Return the path of the finest level of an OME-Zarr group, None if it is not one."""
    scales = _multiscales(group)
    return str(scales[0]["datasets"][0]["path"]) if scales else None


def _ome_scale(group: "zarr.Group", name: str) -> tuple[float, float, float] | None:
    for level in (_multiscales(group) or [{"datasets": ()}])[0]["datasets"]:
        for transform in level.get("coordinateTransformations", ()) if level["path"] == name else ():
            if transform["type"] == "scale" and len(transform["scale"]) >= SPATIAL:
                return triple(transform["scale"][-SPATIAL:][::-1])
    return None


def _multiscales(group: "zarr.Group") -> list[Any]:
    attributes: dict[str, Any] = dict(group.attrs)
    return list(attributes.get("ome", attributes).get("multiscales", ()))


def _none(dataset: str | None, path: Path) -> None:
    if dataset:
        raise InvalidInputError(f"{path} holds one array: --dataset {dataset} has no meaning there")


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} "
