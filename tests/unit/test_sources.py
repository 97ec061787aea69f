"""Every kind of source gives the same voxels by boxes, and says what is wrong with what it cannot read."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from dvidzarr.cli.sources import open_source
from dvidzarr.core.errors import DvidzarrError, InvalidInputError, NotFoundError, StorageError
from dvidzarr.core.geometry import Box

SHAPE = (5, 37, 41)
VOLUME = np.random.default_rng(7).integers(0, 256, SHAPE, np.uint8)
PART = Box((1, 3, 5), (4, 37, 40))
INSIDE = VOLUME[1:4, 3:37, 5:40]


def write_npz(path: Path) -> str:
    np.savez_compressed(path / "v.npz", volume=VOLUME)
    return str(path / "v.npz")


def write_npy(path: Path) -> str:
    np.save(path / "v.npy", VOLUME)
    return str(path / "v.npy")


def write_fortran_npy(path: Path) -> str:
    np.save(path / "v.npy", np.asfortranarray(VOLUME))
    return str(path / "v.npy")


def write_tiff(path: Path) -> str:
    tifffile.imwrite(path / "v.tif", VOLUME, photometric="minisblack")
    return str(path / "v.tif")


def write_packed_tiff(path: Path) -> str:
    tifffile.imwrite(
        path / "v.tif", VOLUME, photometric="minisblack", compression="zlib", rowsperstrip=8, bigtiff=True
    )
    return str(path / "v.tif")


def write_page_by_page_tiff(path: Path) -> str:
    with tifffile.TiffWriter(path / "v.tif") as file:
        for page in VOLUME:
            file.write(page, compression="zlib", tile=(16, 16), contiguous=False)
    return str(path / "v.tif")


def write_tiff_folder(path: Path) -> str:
    for index, page in enumerate(VOLUME):
        tifffile.imwrite(path / f"slice{index * 7}.tif", page)
    return str(path)


def write_png_folder(path: Path) -> str:
    for index, page in enumerate(VOLUME):
        Image.fromarray(page).save(path / f"s{index + 8}.png")  # s8, s9, s10: natural order matters
    return str(path)


def write_hdf5(path: Path) -> str:
    with h5py.File(path / "v.h5", "w") as file:
        file.create_dataset("a/raw", data=VOLUME, chunks=(2, 16, 16), compression="gzip")
        file.create_dataset("other", data=np.zeros(3))
    return f"{path / 'v.h5'}:/a/raw"


def write_zarr(version: int) -> Callable[[Path], str]:
    def write(path: Path) -> str:
        array = zarr.create_array(
            path / "v.zarr", shape=SHAPE, chunks=(2, 16, 16), dtype="u1", zarr_format=version
        )
        array[:] = VOLUME
        return str(path / "v.zarr")

    return write


def write_ome(path: Path) -> str:
    levels = [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 50, 4.6, 4.5]}]}]
    group = zarr.open_group(path / "v", mode="w", attributes={"ome": {"multiscales": [{"datasets": levels}]}})
    group.create_array("s0", shape=(1, 1, *SHAPE), chunks=(1, 1, 2, 16, 16), dtype="u1")[0, 0] = VOLUME
    group.create_array("s1", shape=(1, 1, 2, 16, 16), dtype="u1")
    return str(path / "v")


def write_zarr_zip(path: Path) -> str:
    with zarr.storage.ZipStore(path / "v.zarr.zip", mode="w") as store:
        zarr.create_array(store, shape=SHAPE, chunks=(2, 16, 16), dtype="u1")[:] = VOLUME
    return str(path / "v.zarr.zip")


def write_zarr_url(path: Path) -> str:
    return "file://" + write_zarr(3)(path)


WRITERS = {
    "npz": write_npz,
    "npy": write_npy,
    "fortran": write_fortran_npy,
    "tiff": write_tiff,
    "packed": write_packed_tiff,
    "pages": write_page_by_page_tiff,
    "tiffs": write_tiff_folder,
    "pngs": write_png_folder,
    "hdf5": write_hdf5,
    "zarr2": write_zarr(2),
    "zarr3": write_zarr(3),
    "ome": write_ome,
    "zip": write_zarr_zip,
    "url": write_zarr_url,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_source_gives_the_voxels_of_a_box(tmp_path: Path, kind: str) -> None:
    source = open_source(WRITERS[kind](tmp_path))
    try:
        assert source.shape == SHAPE
        assert source.dtype == np.uint8
        assert np.array_equal(source.read(PART), INSIDE)
        assert np.array_equal(source.read(source.box), VOLUME)
    finally:
        source.close()


def test_a_single_image_is_one_section(tmp_path: Path) -> None:
    Image.fromarray(VOLUME[0]).save(tmp_path / "one.png")
    source = open_source(str(tmp_path / "one.png"))
    assert source.shape == (1, *SHAPE[1:])
    assert np.array_equal(source.read(source.box)[0], VOLUME[0])


def test_an_ome_zarr_tells_its_voxel_size(tmp_path: Path) -> None:
    assert open_source(write_ome(tmp_path)).voxel_size_xyz == (4.5, 4.6, 50)


def test_the_identity_changes_with_the_content(tmp_path: Path) -> None:
    before = open_source(write_npy(tmp_path)).identity
    np.save(tmp_path / "v.npy", VOLUME[:3])
    assert open_source(str(tmp_path / "v.npy")).identity != before


def refused(text: str, kind: type[DvidzarrError], words: str, dataset: str | None = None) -> None:
    with pytest.raises(kind, match=words):
        open_source(text, dataset)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    refused(str(tmp_path / "none.tif"), NotFoundError, "no source at")
    (tmp_path / "v.xyz").touch()
    refused(str(tmp_path / "v.xyz"), InvalidInputError, "format of")
    (tmp_path / "empty").mkdir()
    refused(str(tmp_path / "empty"), NotFoundError, "neither images")
    for name in ("v.tif", "v.h5", "v.npy", "v.npz", "v.png", "v.zip"):
        (tmp_path / name).write_bytes(b"not what it says")
        with pytest.raises((InvalidInputError, NotFoundError)):
            open_source(str(tmp_path / name))


def test_a_file_of_several_arrays_asks_which(tmp_path: Path) -> None:
    write_hdf5(tmp_path)
    refused(str(tmp_path / "v.h5"), InvalidInputError, "--dataset")
    refused(str(tmp_path / "v.h5"), NotFoundError, "a/raw", "absent")
    np.savez(tmp_path / "two.npz", a=VOLUME, b=VOLUME)
    refused(str(tmp_path / "two.npz"), InvalidInputError, "a, b")
    assert open_source(str(tmp_path / "two.npz"), "b").shape == SHAPE


def test_shapes_that_are_no_volume_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "four.npy", np.zeros((2, 3, 4, 5), np.uint8))
    refused(str(tmp_path / "four.npy"), InvalidInputError, r"shape \(2, 3, 4, 5\)")
    np.save(tmp_path / "text.npy", np.zeros((2, 3, 4), "U3"))
    refused(str(tmp_path / "text.npy"), InvalidInputError, "expected numbers")
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "rgb.png")
    refused(str(tmp_path / "rgb.png"), InvalidInputError, "gray")


def test_images_of_other_size_are_refused_when_read(tmp_path: Path) -> None:
    write_png_folder(tmp_path)
    Image.fromarray(VOLUME[0, :9]).save(tmp_path / "s99.png")
    source = open_source(str(tmp_path))
    with pytest.raises(InvalidInputError, match=r"s99\.png is 41 × 9"):
        source.read(source.box)


def test_axes_stored_backwards_are_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "v.zarr", shape=SHAPE, dtype="u1", dimension_names=("x", "y", "z"))
    refused(str(tmp_path / "v.zarr"), InvalidInputError, "transposed")


def test_a_broken_archive_fails_as_storage_or_input(tmp_path: Path) -> None:
    path = Path(write_npz(tmp_path))
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("volume.npy").header_offset
    data = bytearray(path.read_bytes())
    data[start + 200 : start + 400] = bytes(200)
    path.write_bytes(data)
    with pytest.raises((InvalidInputError, StorageError)):
        open_source(str(path))
