"""Voxels over HTTP at the edges: odd settings, and coordinates where nothing can have been written (spec-voxels)."""

import io
import json
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from PIL import Image

from dvidzarr.wire.blockstream import decode_frames

FAR = 64_000_000
"""A voxel of int32 whose block of 32 is beyond ±2²⁰."""

Ask = Callable[..., httpx.Response]


@pytest.fixture
def root(client: httpx.Client) -> str:
    uuid: str = client.post("/api/repos", json={}).json()["root"]
    return uuid


def create(client: httpx.Client, root: str, typename: str, **config: str) -> httpx.Response:
    body = {"typename": typename, "dataname": "g", **config}
    return client.post(f"/api/repo/{root}/instance", json=body)


@pytest.fixture
def made(client: httpx.Client, root: str) -> Callable[..., Ask]:
    """Make the instance `g` of a type, and return what asks it."""

    def make(typename: str = "uint8blk", **config: str) -> Ask:
        create(client, root, typename, **config).raise_for_status()

        def ask(path: str, content: bytes | None = None) -> httpx.Response:
            url = f"/api/node/{root}/g/{path}"
            return client.get(url) if content is None else client.post(url, content=content)

        return ask

    return make


# --- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gzip:3", "gzip compression, level 3"),
        ("gzip:+3", "gzip compression, level 3"),
        ("GZIP:009", "gzip compression, level 9"),
        ("gzip:-1", "gzip compression, level -1"),
        ("gzip:0", "No compression, level -1"),
        ("gzip:10", "No compression, level 0"),
        ("gzip:100", "No compression, level 0"),
        ("gzip:-2", "No compression, level 0"),
    ],
)
def test_levels_of_gzip(made: Callable[..., Ask], text: str, shown: str) -> None:
    ask = made(BlockSize="8,8,8", Compression=text)
    assert ask("info").json()["Base"]["Compression"] == shown
    voxels = bytes(range(256)) * 2
    assert ask("raw/0_1_2/8_8_8/0_0_0", voxels).status_code == 200
    for path in ("subvolblocks/8_8_8/0_0_0", "specificblocks?blocks=0,0,0"):
        (frame,) = decode_frames(ask(path).content, 4096)
        if shown.startswith("No"):
            assert bytes(frame.payload) == voxels
        else:
            assert bytes(frame.payload)[:2] == b"\x1f\x8b"


@pytest.mark.parametrize("typename", ["labelblk", "roi", "keyvalue"])
def test_levels_of_gzip_mean_the_same_to_all_types(client: httpx.Client, root: str, typename: str) -> None:
    assert create(client, root, typename, Compression="gzip:10").status_code == 200
    base = client.get(f"/api/node/{root}/g/info").json()["Base"]
    assert base["Compression"] == "No compression, level 0"


@pytest.mark.parametrize(
    "config",
    [
        {"Compression": "gzip:٣"},
        {"Compression": "gzip:"},
        {"Compression": "gzip: 3"},
        {"Compression": "gzip:1_0"},
        {"Compression": "gzip:+-3"},
        {"Compression": "gzip:9223372036854775808"},
        {"Compression": "gzip:" + "9" * 5000},
        {"Compression": "none:0"},
        {"Background": "+5"},
        {"Background": "-0"},
        {"Background": "٣"},
        {"Background": "256"},
        {"VoxelSize": "1_0,1,1"},
        {"VoxelSize": "٣,1,1"},
        {"VoxelSize": "1,1"},
        {"VoxelSize": "nan,1,1"},
        {"VoxelSize": "1e39,1,1"},
        {"BlockSize": "٨,8,8"},
        {"BlockSize": "1_0,8,8"},
    ],
    ids=lambda config: " ".join(f"{key}={value[:20]}" for key, value in config.items()),
)
def test_settings_that_go_does_not_parse(client: httpx.Client, root: str, config: dict[str, str]) -> None:
    assert create(client, root, "uint8blk", **config).status_code == 400


def test_settings_that_go_parses(made: Callable[..., Ask]) -> None:
    ask = made(BlockSize=" +8, 8,8 ", Background="007", VoxelSize="+1., .5, 1e1")
    shown = ask("info").json()["Extended"]
    assert (shown["BlockSize"], shown["Background"]) == ([8, 8, 8], 7)
    assert shown["VoxelSize"] == [1, 0.5, 10]


@pytest.mark.parametrize("sizes", [[0, 1, 2], [-1, 1, 2], [1, 0, -2.5], [0, -1, 0]])
def test_voxel_sizes_that_are_not_positive(made: Callable[..., Ask], sizes: list[float]) -> None:
    ask = made(BlockSize="8,8,8")
    assert ask("resolution", json.dumps(sizes).encode()).status_code == 200
    assert ask("info").json()["Extended"]["VoxelSize"] == sizes
    axes = ask("metadata").json()["Axes"]
    assert [axis["Resolution"] for axis in axes] == sizes
    answer = ask("isotropic/xy/8_8/0_0_0")
    assert answer.status_code == 400
    assert "isotropic needs positive voxel sizes" in answer.text
    answer = ask("arb/0_0_0/0_0_0/0_0_0/1")
    assert answer.status_code == (400 if 0 in sizes else 200), answer.text
    assert ask("isotropic/0_1_2/8_8_8/0_0_0").status_code == 200


def test_equal_voxel_sizes_need_no_division(made: Callable[..., Ask]) -> None:
    ask = made(VoxelSize="0,0,1")
    assert ask("isotropic/xy/8_8/0_0_0").content == ask("raw/xy/8_8/0_0_0").content


def test_planes_of_labels_without_size(made: Callable[..., Ask]) -> None:
    ask = made("labelblk", VoxelSize="0,1,1", BlockSize="8,8,8")
    assert ask("isotropic/xy/8_8/0_0_0").status_code == 400
    assert ask("isotropic/yz/8_8/0_0_0").status_code == 200


# --- far away ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [f"{FAR}_0_0", f"0_-{FAR}_0", "0_0_2147483616", "-2147483648_0_0"])
def test_no_frames_come_from_far_away(made: Callable[..., Ask], at: str) -> None:
    ask = made(Compression="lz4")
    for form in ("", "?compression=uncompressed"):
        answer = ask(f"subvolblocks/32_32_32/{at}{form}")
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("typename", ["uint8blk", "labelblk"])
def test_frames_up_to_the_last_block(made: Callable[..., Ask], typename: str) -> None:
    ask = made(typename, BlockSize="8,8,8")
    edge, size = 8 << 20, 512 * (8 if typename == "labelblk" else 1)
    ask(f"raw/0_1_2/8_8_8/{edge - 8}_0_-{edge}", b"\x05" * size).raise_for_status()
    keyword = "blocks" if typename == "labelblk" else "subvolblocks"
    for form in ("", "?compression=uncompressed"):
        answer = ask(f"{keyword}/24_8_16/{edge - 16}_0_-{edge + 8}{form}")
        assert answer.status_code == 200, answer.text
        (frame,) = decode_frames(answer.content, 1 << 16)
        assert frame.coord_zyx == (-(1 << 20), 0, (1 << 20) - 1)
        answer = ask(f"{keyword}/8_8_8/{edge}_0_-{edge}{form}")
        assert (answer.status_code, answer.content) == (200, b"")


def test_listed_blocks_far_away(made: Callable[..., Ask]) -> None:
    ask = made()
    ask("raw/0_1_2/32_32_32/0_0_0", b"\x05" * 32768).raise_for_status()
    answer = ask("specificblocks?blocks=0,0,2000000,0,0,0,-2147483648,2147483647,0&compression=uncompressed")
    (frame,) = decode_frames(answer.content, 1 << 16)
    assert frame.coord_zyx == (0, 0, 0)
    answer = ask("specificblocks?blocks=0,0,2000000")
    assert (answer.status_code, answer.content) == (200, b"")
    # where chunk coordinates would wrap
    answer = ask("specificblocks?blocks=2097152,0,0")
    assert (answer.status_code, answer.content) == (200, b"")


def test_bare_blocks_far_away_are_background(made: Callable[..., Ask]) -> None:
    ask = made(BlockSize="8,8,8", Background="7")
    ask(f"blocks/{(1 << 20) - 1}_0_0/1", b"\x05" * 512).raise_for_status()
    assert ask("blocks/2000000_0_0/1").content == b"\x07" * 512
    assert ask("blocks/2147483647_0_0/3").content == b"\x07" * 1536
    assert ask(f"blocks/{(1 << 20) - 2}_0_0/3").content == b"\x07" * 512 + b"\x05" * 512 + b"\x07" * 512


@pytest.mark.parametrize("typename", ["uint8blk", "labelblk"])
def test_too_many_blocks_far_away_are_refused_at_once(made: Callable[..., Ask], typename: str) -> None:
    ask = made(typename, BlockSize="1,1,1")
    keyword = "blocks" if typename == "labelblk" else "subvolblocks"
    assert ask(f"{keyword}/500_500_500/{FAR}_0_0").status_code in (400, 413)


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("blocks/2000000_0_0/1", 512),
        (f"blocks/{(1 << 20) - 1}_0_0/2", 1024),
        ("blocks/0_0_0/9223372036854775807", 512),
        (f"raw/0_1_2/8_8_8/{FAR}_0_0", 512),
    ],
)
def test_nothing_is_written_far_away(made: Callable[..., Ask], path: str, size: int) -> None:
    ask = made(BlockSize="8,8,8")
    answer = ask(path, b"\x05" * size)
    assert answer.status_code == 400
    assert "±1048576" in answer.text


@pytest.mark.parametrize("path", ["blocks/2147483648_0_0/1", "specificblocks?blocks=0,0,2147483648"])
def test_coordinates_beyond_32_bits(made: Callable[..., Ask], path: str) -> None:
    answer = made()(path)
    assert answer.status_code == 400
    assert "value out of range" in answer.text


def samples(answer: httpx.Response) -> list[list[int]]:
    assert answer.status_code == 200, answer.text
    rows: list[list[int]] = np.asarray(Image.open(io.BytesIO(answer.content))).tolist()
    return rows


def test_slices_that_leave_what_can_be_written(made: Callable[..., Ask]) -> None:
    ask = made(BlockSize="8,8,8", VoxelSize="1,1,1", Background="9")
    edge = 8 << 20
    ask(f"raw/0_1_2/8_8_8/{edge - 8}_0_0", b"\x05" * 512).raise_for_status()
    ask(f"raw/0_1_2/8_8_8/-{edge}_0_0", b"\x03" * 512).raise_for_status()
    ask("raw/0_1_2/8_8_8/0_0_0", b"\x01" * 512).raise_for_status()
    assert samples(ask("arb/0_0_0/1e9_0_0/0_8_0/1e8")) == [[1] + [9] * 10]
    assert samples(ask("arb/1e308_0_0/1e308_0_0/1e308_0_0/1")) == [[9]]
    # from the last voxel to the first beyond: their mean in between
    path = "arb/{0}_0_0/{1}_0_0/{0}_0_0/0.5"
    assert samples(ask(path.format(edge - 1, edge + 1))) == [[5, 7, 9, 9, 9]]
    assert samples(ask(path.format(-edge - 1, -edge))) == [[9, 6, 3]]
    assert samples(ask(f"arb/-{edge}_0_0/{edge}_0_0/0_0_0/{edge}"))[0] == [3, 1, 9]


@pytest.mark.parametrize("listed", ["", "&blocks=", "&blocks=0,0,0&prefetch=on", "&blocks=0,0"])
def test_a_compression_unknown_is_refused_before_anything(made: Callable[..., Ask], listed: str) -> None:
    answer = made()(f"specificblocks?compression=zip{listed}")
    assert answer.status_code == 400
    assert "don't understand 'compression' query string value: zip" in answer.text
