"""Regions of interest over HTTP (spec-roi): a real store and server."""

import json

import httpx
import numpy as np
import pytest


@pytest.fixture
def node(client: httpx.Client) -> str:
    """Path of the root version of a fresh repo with the roi `r`."""
    root = client.post("/api/repos", json={}).json()["root"]
    make(client, root, "roi", "r")
    return f"/api/node/{root}"


def make(client: httpx.Client, root: str, kind: str, name: str, **config: str) -> None:
    body = {"typename": kind, "dataname": name, **config}
    client.post(f"/api/repo/{root}/instance", json=body).raise_for_status()


def root_of(node: str) -> str:
    return node.rpartition("/")[2]


def test_post_get_and_delete(client: httpx.Client, node: str) -> None:
    body = "[[1,2,3,4],[0,2,8,9],[0,0,0,1],[0,2,3,5],[0,0,0,1]]"
    answer = client.post(f"{node}/r/roi", content=body)
    assert (answer.status_code, answer.content) == (200, b"")
    answer = client.get(f"{node}/r/roi")
    assert answer.text == "[[0,0,0,1],[0,2,3,5],[0,2,8,9],[1,2,3,4]]"
    assert answer.headers["Content-Type"] == "application/json"
    assert client.get(f"{node}/r/info").json()["Extended"] == {
        "BlockSize": [32, 32, 32],
        "MinZ": 0,
        "MaxZ": 1,
    }
    head = client.head(f"{node}/r/roi")
    assert (head.status_code, head.content) == (200, b"")
    assert client.delete(f"{node}/r/roi").status_code == 200
    assert client.get(f"{node}/r/roi").text == "[]"
    assert client.get(f"{node}/r/info").json()["Extended"]["MinZ"] == 2147483647
    assert client.post(f"{node}/r/roi", content="null").status_code == 200


def test_many_spans_are_streamed(client: httpx.Client, node: str) -> None:
    rows = [[z, y, 0, 5] for z in range(400) for y in range(400)]
    client.post(f"{node}/r/roi", json=rows).raise_for_status()
    assert client.get(f"{node}/r/roi").json() == rows


def test_refused_spans_leave_the_region(client: httpx.Client, node: str) -> None:
    client.post(f"{node}/r/roi", content="[[5,5,5,5]]").raise_for_status()
    for body in ("", "[[1,2,3", "[[1,2,3,4.5]]", "[[0,0,5,2]]", "[1]", '{"a":1}', "[[1,2,3,4294967296]]"):
        assert client.post(f"{node}/r/roi", content=body).status_code == 400
    assert client.get(f"{node}/r/roi").text == "[[5,5,5,5]]"
    text = client.post(f"{node}/r/roi", content="[[0,0,5,2]]").text
    assert text.startswith("Got weird span [0, 0, 5, 2].  span[3] (X1) < span[2] (X0) (/api/node/")


def test_points(client: httpx.Client, node: str) -> None:
    client.post(f"{node}/r/roi", content="[[0,0,0,1],[-1,0,0,0]]").raise_for_status()
    client.post(f"{node}/commit", json={}).raise_for_status()
    points = "[[0,0,0],[63,31,31],[64,0,0],[5,5,-1],[-1,0,0]]"
    answer = client.post(f"{node}/r/ptquery", content=points)
    assert answer.text == "[true,true,false,true,false]"
    assert answer.headers["Content-Type"] == "application/json"
    assert client.post(f"{node}/r/ptquery", content="null").text == "[]"
    assert client.post(f"{node}/r/ptquery", content="[[1.5,2,3]]").status_code == 400
    refused = client.post(f"{node}/r/roi", content="[]")
    assert "Cannot do POST on endpoint" in refused.text


def test_masks(client: httpx.Client, node: str) -> None:
    make(client, root_of(node), "roi", "small", BlockSize="2,2,2")
    client.post(f"{node}/small/roi", content="[[0,0,1,1]]").raise_for_status()
    answer = client.get(f"{node}/small/mask/0_1_2/4_2_2/1_1_1")
    assert answer.content == bytes.fromhex("00010100" + "00" * 12)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert client.get(f"{node}/small/mask/vol/0_2_2/1_1_1").content == b""
    for path in ("xy/4_4/0_0_0", "arb/4_4_4/0_0_0", "0_1_2/4_4_4", "0_1_2/-4_4_4/0_0_0", "0_1_2/4_4/0_0_0"):
        assert client.get(f"{node}/small/mask/{path}").status_code == 400
    assert "3d masks" in client.get(f"{node}/small/mask/xy/4_4/0_0_0").text


def test_a_large_mask_is_streamed_in_order(client: httpx.Client, node: str) -> None:
    """Planes larger than a piece, and boxes whose rows do not fill pieces."""
    client.post(f"{node}/r/roi", content="[[0,0,0,1],[0,20,30,60],[0,50,0,80],[1,3,3,4]]").raise_for_status()
    for size, offset in (
        ((2500, 1700, 3), (-7, -5, 30)),
        ((300, 90, 70), (1, 2, -3)),
        ((2_200_000, 2, 1), (-9, 0, 0)),
    ):
        path = f"{'_'.join(map(str, size))}/{'_'.join(map(str, offset))}"
        answer = client.get(f"{node}/r/mask/0_1_2/{path}")
        mask = np.frombuffer(answer.content, np.uint8).reshape(size[::-1])
        wanted = np.zeros_like(mask)
        for z, y, x0, x1 in client.get(f"{node}/r/roi").json():
            lows = [max(a - b, 0) for a, b in zip((z * 32, y * 32, x0 * 32), offset[::-1], strict=True)]
            highs = [
                max(a - b, 0)
                for a, b in zip((z * 32 + 32, y * 32 + 32, x1 * 32 + 32), offset[::-1], strict=True)
            ]
            wanted[tuple(slice(a, b) for a, b in zip(lows, highs, strict=True))] = 1
        assert np.array_equal(mask, wanted)


def test_partition(client: httpx.Client, node: str) -> None:
    client.post(f"{node}/r/roi", content="[[0,0,0,4]]").raise_for_status()
    answer = client.get(f"{node}/r/partition?batchsize=4")
    assert answer.headers["Content-Type"] == "application/json"
    found = answer.json()
    assert answer.text == json.dumps(found, indent=4)
    assert list(found) == ["NumTotalBlocks", "NumActiveBlocks", "NumSubvolumes", "ROI", "Subvolumes"]
    assert (found["NumTotalBlocks"], found["NumActiveBlocks"], found["NumSubvolumes"]) == (128, 5, 2)
    assert found["Subvolumes"][1] == {
        "MinPoint": [128, 0, 0],
        "MaxPoint": [255, 127, 127],
        "MinChunk": [4, 0, 0],
        "MaxChunk": [7, 3, 3],
        "TotalBlocks": 64,
        "ActiveBlocks": 1,
    }
    client.post(f"{node}/r/roi", content="[[0,0,0,1],[0,1,1,2],[1,0,0,0]]").raise_for_status()
    found = client.get(f"{node}/r/partition?batchsize=2&optimized=on").json()
    assert [(box["MaxChunk"], box["TotalBlocks"], box["ActiveBlocks"]) for box in found["Subvolumes"]] == [
        ([2, 1, 1], 12, 5)
    ]
    client.delete(f"{node}/r/roi").raise_for_status()
    empty = client.get(f"{node}/r/partition?batchsize=2")
    assert '"Subvolumes": []' in empty.text
    assert empty.json()["ROI"]["MinChunk"] == [0, 0, 2147483647]


@pytest.mark.parametrize(
    "asked", ["", "batchsize=", "batchsize=x", "batchsize=0", "batchsize=-3", "batchsize=4294967296"]
)
def test_refused_partitions(client: httpx.Client, node: str, asked: str) -> None:
    client.post(f"{node}/r/roi", content="[[0,0,0,4]]").raise_for_status()
    assert client.get(f"{node}/r/partition?{asked}").status_code == 400


def test_wrong_verbs_and_keywords(client: httpx.Client, node: str) -> None:
    words = {
        ("POST", "mask/0_1_2/4_4_4/0_0_0"): "ROI mask only supports GET",
        ("DELETE", "partition?batchsize=4"): "partition only supports GET request",
        ("GET", "ptquery"): "ptquery requires POST with list of points",
        ("GET", "erode/1"): "Bad API call",
    }
    for (verb, path), text in words.items():
        answer = client.request(verb, f"{node}/r/{path}")
        assert (answer.status_code, answer.text[: len(text)]) == (400, text)
    assert client.get(f"{node}/r/help").text.startswith("Regions of interest")


@pytest.mark.parametrize("verb", ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"])
def test_verbs_that_mean_nothing(client: httpx.Client, node: str, verb: str) -> None:
    client.post(f"{node}/r/roi", content="[[5,5,5,5]]").raise_for_status()
    for keyword, media_type in (("help", "text/plain"), ("info", "application/json")):
        answer, same = client.request(verb, f"{node}/r/{keyword}"), client.get(f"{node}/r/{keyword}")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == same.headers["Content-Type"]
        assert answer.headers["Content-Type"].startswith(media_type)
        assert answer.content == (b"" if verb == "HEAD" else same.content)
    for keyword in ("ptquery",) if verb == "DELETE" else ("ptquery", "roi"):
        answer = client.request(verb, f"{node}/r/{keyword}")
        assert (answer.status_code, answer.content) == (200, b"")
    for path in ("mask/0_1_2/4_4_4/0_0_0", "partition?batchsize=4", "erode/1"):
        assert client.request(verb, f"{node}/r/{path}").status_code == 400
    assert client.get(f"{node}/r/roi").text == "[[5,5,5,5]]"


def test_verbs_that_mean_nothing_are_refused_where_it_is_locked(client: httpx.Client, node: str) -> None:
    client.post(f"{node}/commit", json={}).raise_for_status()
    for keyword in ("roi", "ptquery", "info", "help"):
        for verb in ("PUT", "DELETE"):
            answer = client.request(verb, f"{node}/r/{keyword}")
            assert answer.status_code == 400
            assert f'Cannot do {verb} on endpoint "{keyword}" of locked node' in answer.text
        answer = client.request("HEAD", f"{node}/r/{keyword}")
        assert answer.status_code == 200
    assert client.post(f"{node}/r/ptquery", content="[[0,0,0]]").text == "[false]"


def test_voxels_within_a_region(client: httpx.Client, node: str) -> None:
    make(client, root_of(node), "uint8blk", "gray", BlockSize="32,32,32", Background="9")
    make(client, root_of(node), "keyvalue", "notes")
    client.post(f"{node}/r/roi", content="[[0,0,1,1]]").raise_for_status()
    voxels = np.random.default_rng(2).integers(10, 255, (32, 32, 96), np.uint8)
    path = f"{node}/gray/raw/0_1_2/96_32_32/0_0_0"
    client.post(path, content=voxels.tobytes()).raise_for_status()
    wanted = np.full_like(voxels, 9)
    wanted[:, :, 32:64] = voxels[:, :, 32:64]
    assert client.get(f"{path}?roi=r").content == wanted.tobytes()
    assert client.get(f"{path}?roi=r&attenuation=3").content == wanted.tobytes()
    one = client.get(f"{node}/gray/raw/0_1_2/4_2_2/1_1_1?roi=r")
    assert one.content == b"\x09" * 16
    assert client.post(f"{path}?roi=r", content=b"\x05" * voxels.size).status_code == 200
    voxels[:, :, 32:64] = 5
    assert client.get(path).content == voxels.tobytes()
    for name, text in (("nosuch", "Can't get ROI with name"), ("notes", 'Data name "notes" was not of roi')):
        for answer in (
            client.get(f"{path}?roi={name}"),
            client.post(f"{path}?roi={name}", content=voxels.tobytes()),
        ):
            assert (answer.status_code, answer.text[: len(text)]) == (400, text)


def test_a_large_volume_within_a_region_is_streamed(client: httpx.Client, node: str) -> None:
    make(client, root_of(node), "uint8blk", "gray", BlockSize="32,32,32")
    client.post(
        f"{node}/r/roi", json=[[z, y, 1, 2] for z in range(0, 6, 2) for y in range(4)]
    ).raise_for_status()
    voxels = np.random.default_rng(3).integers(0, 255, (192, 128, 128), np.uint8)
    path = f"{node}/gray/raw/0_1_2/128_128_192/0_0_0"
    client.post(path, content=voxels.tobytes()).raise_for_status()
    mask = client.get(f"{node}/r/mask/0_1_2/128_128_192/0_0_0").content
    wanted = voxels * np.frombuffer(mask, np.uint8).reshape(voxels.shape)
    assert client.get(f"{path}?roi=r").content == wanted.tobytes()
