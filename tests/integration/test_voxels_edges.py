"""Voxels over HTTP at the edges: odd settings, and coordinates where nothing can have been written (spec-voxels)."""

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

import dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.server.app import running
from dvidzarr.wire.blockstream import decode_frames

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("edges") / "store"
    with (
        dvidzarr.open(folder) as catalog,
        running(catalog, Settings()) as address,
        httpx.Client(base_url=address, timeout=120) as found,
    ):
        yield found


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
