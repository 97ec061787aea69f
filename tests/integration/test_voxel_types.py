"""uint16blk to rgba8blk and labelblk: arrays by Python, by HTTP and by Zarr are the same (spec-voxels §2.4, §5)."""

import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image

import dvidzarr
from dvidzarr.core.geometry import Box

DTYPES = {
    "uint8blk": "u1",
    "uint16blk": "<u2",
    "uint32blk": "<u4",
    "uint64blk": "<u8",
    "float32blk": "<f4",
    "rgba8blk": "<u4",
    "labelblk": "<u8",
}
WIDE = [name for name in DTYPES if name not in ("uint8blk", "labelblk")]
RANDOM = np.random.default_rng(5)


def volume(dtype: str, shape: tuple[int, int, int] = (16, 32, 16)) -> np.ndarray:
    data = RANDOM.integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    if dtype == "<f4":
        return RANDOM.normal(size=shape).astype(dtype)
    return data.view(dtype)[..., 0].copy()


class Volume:
    """An instance `g` of a type in a fresh repo, 16³ blocks, over HTTP."""

    def __init__(self, client: httpx.Client, type_name: str, **config: str) -> None:
        self.client = client
        self.root = self.client.post("/api/repos", json={}).json()["root"]
        body = {"typename": type_name, "dataname": "g", "BlockSize": "16,16,16", **config}
        self.client.post(f"/api/repo/{self.root}/instance", json=body).raise_for_status()

    def get(self, path: str) -> httpx.Response:
        return self.client.get(f"/api/node/{self.root}/g/{path}")

    def post(self, path: str, content: bytes) -> httpx.Response:
        return self.client.post(f"/api/node/{self.root}/g/{path}", content=content)

    def write(self, data: np.ndarray, offset: str = "0_0_0") -> None:
        z, y, x = data.shape
        self.post(f"raw/0_1_2/{x}_{y}_{z}/{offset}", data.tobytes()).raise_for_status()


def pixels(answer: httpx.Response) -> np.ndarray:
    """Return the samples of a PNG or TIFF, 16-bit RGBA included (which Pillow cannot read)."""
    assert answer.status_code == 200, answer.text
    if answer.headers["Content-Type"] == "image/tiff":
        return tifffile.imread(io.BytesIO(answer.content))
    return np.asarray(Image.open(io.BytesIO(answer.content)))


@pytest.mark.parametrize("type_name", DTYPES)
def test_python_and_zarr_see_the_same(tmp_path: Path, type_name: str) -> None:
    import zarr

    data = volume(DTYPES[type_name])
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.create_repo()
        instance = repo.create_instance(type_name, "g", {"BlockSize": "8,16,8"})
        view: Any = instance.at()
        view.write(Box((0, 0, 0), data.shape), data)
        assert np.array_equal(view.read(Box((3, 5, 2), (13, 30, 11))), data[3:13, 5:30, 2:11])
        assert view.read(Box((0, 0, 0), data.shape)).dtype == np.dtype(DTYPES[type_name])
    (folder,) = (tmp_path / "store").glob("repos/*/data/*/versions/*")
    array: Any = zarr.open(str(folder), mode="r")["0"]
    assert array.dtype == np.dtype(DTYPES[type_name])
    assert np.array_equal(array[:], data)
    with dvidzarr.open(tmp_path / "store", mode="r") as catalog:
        again: Any = catalog.repos[0].instance("g").at()
        assert np.array_equal(again.read(Box((0, 0, 0), data.shape)), data)


@pytest.mark.parametrize("type_name", DTYPES)
def test_volumes_over_http(client: httpx.Client, type_name: str) -> None:
    volume_ = Volume(client, type_name)
    data = volume(DTYPES[type_name])
    volume_.write(data, "-16_16_32")
    answer = volume_.get("raw/0_1_2/20_36_18/-18_14_31")
    expected = np.zeros((18, 36, 20), data.dtype)
    expected[1:17, 2:34, 2:18] = data
    assert answer.content == expected.tobytes()


@pytest.mark.parametrize("type_name", WIDE)
def test_blocks_of_wide_voxels(client: httpx.Client, type_name: str) -> None:
    volume_ = Volume(client, type_name, Background="7")
    data = volume(DTYPES[type_name], (32, 16, 16))
    assert volume_.post("blocks/3_0_-1/2", data.tobytes() + b"surplus").status_code == 200
    size = data.nbytes // 2
    answer = volume_.get("blocks/2_0_-1/3")
    assert answer.content == b"\7" * size + data.tobytes()
    assert volume_.post("blocks/0_0_0/2", data.tobytes()[:-1]).status_code == 400
    frames = volume_.get("subvolblocks/32_16_16/48_0_-16?compression=uncompressed").content
    assert frames[16 : 16 + size] == data[:16].tobytes()
    assert volume_.get("info").json()["Extents"]["MinPoint"] is None


@pytest.mark.parametrize("name", ["png", "tif"])
@pytest.mark.parametrize(("plane", "size"), [("xy", "13_9"), ("xz", "13_7"), ("yz", "9_7")])
def test_pictures_of_16_bit_gray_and_colours(client: httpx.Client, name: str, plane: str, size: str) -> None:
    for type_name in ("uint16blk", "rgba8blk"):
        volume_ = Volume(client, type_name)
        data = volume(DTYPES[type_name])
        volume_.write(data)
        box = {"xy": data[1, 3:12, 2:15], "xz": data[1:8, 3, 2:15], "yz": data[1:8, 3:12, 2]}[plane]
        found = pixels(volume_.get(f"raw/{plane}/{size}/2_3_1/{name}"))
        wanted = (
            box if type_name == "uint16blk" else np.ascontiguousarray(box).view("u1").reshape(*box.shape, 4)
        )
        assert np.array_equal(found, wanted)


def test_pictures_of_4_and_8_bytes_hold_the_bytes(client: httpx.Client) -> None:
    for type_name in ("uint32blk", "float32blk"):
        volume_ = Volume(client, type_name)
        data = volume(DTYPES[type_name])
        volume_.write(data)
        found = pixels(volume_.get("raw/xy/16_32/0_0_4"))
        assert np.array_equal(np.ascontiguousarray(found).view(data.dtype)[..., 0], data[4])
    volume_ = Volume(client, "uint64blk")
    data = volume("<u8")
    volume_.write(data)
    found = pixels(volume_.get("raw/xy/16_32/0_0_4/tiff"))
    assert found.dtype == np.uint16
    assert np.array_equal(np.ascontiguousarray(found.astype(">u2")).view("<u8")[..., 0], data[4])


def test_opaque_alpha_is_left_out(client: httpx.Client) -> None:
    volume_ = Volume(client, "rgba8blk")
    data = volume("<u4", (16, 16, 16)) | np.uint32(0xFF000000)
    volume_.write(data)
    found = pixels(volume_.get("raw/xy/16_16/0_0_2"))
    assert found.shape == (16, 16, 3)
    data[2, 3, 4] &= np.uint32(0xFEFFFFFF)
    volume_.write(data)
    assert pixels(volume_.get("raw/xy/16_16/0_0_2")).shape == (16, 16, 4)


def test_isotropic_averages_each_channel_and_takes_the_nearest_wide_value(client: httpx.Client) -> None:
    volume_ = Volume(client, "rgba8blk", VoxelSize="8,8,16")
    data = volume("<u4", (16, 16, 16))
    volume_.write(data)
    found = pixels(volume_.get("isotropic/xz/16_8/0_3_0"))
    assert np.array_equal(found, np.repeat(data[:4, 3].view("u1").reshape(4, 16, 4), 2, axis=0))
    wide = Volume(client, "uint32blk", VoxelSize="8,8,4")
    wide.write(data)
    found = np.ascontiguousarray(pixels(wide.get("isotropic/xz/16_8/0_3_0"))).view("<u4")[..., 0]
    assert np.array_equal(found, np.repeat(data[:8, 3, :8], 2, axis=1))


def test_arb_and_jpeg_are_for_8_bits(client: httpx.Client) -> None:
    volume_ = Volume(client, "uint16blk", Compression="jpeg")
    answer = volume_.get("arb/0_0_0/16_0_0/0_0_0/4")
    assert answer.status_code == 400
    assert "8-bit" in answer.text
    assert volume_.post("raw/0_1_2/16_16_16/0_0_0", bytes(8192)).status_code == 400


def test_info_names_the_values(client: httpx.Client) -> None:
    info = Volume(client, "rgba8blk").get("info").json()
    assert info["Base"]["TypeVersion"] == "0.2"
    assert [value["Label"] for value in info["Extended"]["Values"]] == ["red", "green", "blue", "alpha"]
    info = Volume(client, "float32blk").get("info").json()
    assert info["Base"]["TypeURL"].endswith("/imageblk/float32.go")
    assert info["Extended"]["Values"] == [{"DataType": "float32", "Label": "float32"}]
