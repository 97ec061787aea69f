"""labelblk over HTTP: compressions, look-ups, colours, block streams (spec-voxels §7)."""

import gzip
import hashlib
import io

import httpx
import lz4.block
import numpy as np
import pytest
from PIL import Image

from dvidzarr.wire.blockstream import decode_frames
from dvidzarr.wire.murmur import pseudocolors
from tests.integration.segmentation_reader import decode_segmentation

RANDOM = np.random.default_rng(2)
NAMES = np.array([0, 1, 2, 2**32, 2**53 + 1, 2**63, 2**64 - 2, 2**64 - 1], np.uint64)


def labels_of(shape: tuple[int, int, int]) -> np.ndarray:
    """Return labels in cubes of 4³, ids near 2⁶⁴ among them."""
    coarse = NAMES[RANDOM.integers(0, len(NAMES), [size // 4 for size in shape])]
    return coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)


class Segmentation:
    """An instance `seg` in a fresh repo."""

    def __init__(self, client: httpx.Client, **config: str) -> None:
        self.client = client
        self.root = client.post("/api/repos", json={}).json()["root"]
        body = {"typename": "labelblk", "dataname": "seg", "BlockSize": "16,16,16", **config}
        client.post(f"/api/repo/{self.root}/instance", json=body).raise_for_status()

    def ask(self, method: str, path: str, content: bytes = b"") -> httpx.Response:
        return self.client.request(method, f"/api/node/{self.root}/seg/{path}", content=content)

    def get(self, path: str) -> httpx.Response:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer


@pytest.fixture
def seg(client: httpx.Client) -> Segmentation:
    return Segmentation(client)


PACK = {
    "": lambda data: data,
    "lz4": lambda data: lz4.block.compress(data, store_size=False),
    "gzip": gzip.compress,
}


@pytest.mark.parametrize("compression", PACK)
def test_post_and_get_compressed(seg: Segmentation, compression: str) -> None:
    labels = labels_of((16, 32, 48))
    body = PACK[compression](labels.tobytes())
    path = "raw/0_1_2/48_32_16/-16_0_16"
    answer = seg.ask("POST", f"{path}?compression={compression}", body)
    assert (answer.status_code, answer.content) == (200, b"")
    assert seg.get(path).content == labels.tobytes()
    packed = seg.get(f"{path}?compression=lz4")
    assert lz4.block.decompress(packed.content, uncompressed_size=labels.nbytes) == labels.tobytes()
    packed = seg.get("isotropic/0_1_2/48_32_16/-16_0_16?compression=gzip")
    assert "Content-Encoding" not in packed.headers
    assert gzip.decompress(packed.content) == labels.tobytes()


def test_large_gzip_is_one_stream(seg: Segmentation) -> None:
    labels = labels_of((128, 128, 128))
    assert seg.ask("POST", "raw/vol/128_128_128/0_0_0", labels.tobytes()).status_code == 200
    assert gzip.decompress(seg.get("raw/vol/128_128_128/0_0_0?compression=gzip").content) == labels.tobytes()
    google = seg.get("raw/vol/120_128_128/8_0_0?compression=google").content
    assert np.array_equal(decode_segmentation(google, (128, 128, 120)), labels[:, :, 8:])


def test_google(seg: Segmentation) -> None:
    labels = labels_of((32, 32, 32))
    seg.ask("POST", "raw/0_1_2/32_32_32/0_0_0", labels.tobytes())
    path = "raw/0_1_2/16_24_8/5_4_9"
    plain = seg.get(f"{path}?compression=google").content
    assert np.array_equal(decode_segmentation(plain, (8, 24, 16)), labels[9:17, 4:28, 5:21])
    packed = seg.get(f"{path}?compression=googlegzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.content == plain  # httpx has unpacked it
    assert seg.ask("GET", "raw/0_1_2/16_24_9/0_0_0?compression=google").status_code == 400
    assert seg.ask("POST", f"{path}?compression=googlegzip", plain).status_code == 400


@pytest.mark.parametrize(
    ("compression", "body"),
    [
        ("lz4", b""),
        ("lz4", b"\xff" * 100),
        ("lz4", lz4.block.compress(bytes(32760), store_size=False)),
        ("lz4", lz4.block.compress(bytes(32776), store_size=False)),
        ("gzip", b"no gzip"),
        ("gzip", gzip.compress(bytes(32760))),
        ("gzip", gzip.compress(bytes(32776))),
        ("gzip", gzip.compress(bytes(32768))[:-9]),
        ("gzip", gzip.compress(bytes(1 << 24))),
        ("snappy", bytes(32768)),
        ("", bytes(32767)),
    ],
    ids=[
        "lz4 empty",
        "lz4 garbage",
        "lz4 too short",
        "lz4 too long",
        "not gzip",
        "gzip too short",
        "gzip too long",
        "gzip truncated",
        "gzip bomb",
        "unknown",
        "plain too short",
    ],
)
def test_bad_bodies_store_nothing(seg: Segmentation, compression: str, body: bytes) -> None:
    answer = seg.ask("POST", f"raw/0_1_2/16_16_16/0_0_0?compression={compression}", body)
    assert answer.status_code == 400
    assert answer.text
    assert seg.get("blocks/16_16_16/0_0_0").content == b""


def test_labels_at_points(seg: Segmentation) -> None:
    labels = labels_of((32, 32, 32))
    seg.ask("POST", "raw/0_1_2/32_32_32/-16_0_0", labels.tobytes())
    points = RANDOM.integers(-20, 40, (500, 3))
    points[0] = (2**31 - 1, -(2**31), 0)
    padded = np.zeros((80, 80, 80), np.uint64)
    padded[20:52, 20:52, 4:36] = labels
    wanted = [
        0 if number == 0 else int(padded[z + 20, y + 20, x + 20]) for number, (x, y, z) in enumerate(points)
    ]
    body = str(points.tolist()).encode()
    answer = seg.ask("GET", "labels", body)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.content == str(wanted).replace(" ", "").encode()
    digest = hashlib.md5(body).hexdigest()
    assert seg.ask("GET", f"labels?hash={digest}", body).content == answer.content
    assert seg.ask("GET", f"labels?hash={digest[:-1]}", body).status_code == 400
    x, y, z = points[7]
    assert seg.get(f"label/{x}_{y}_{z}").content == b'{"Label": %d}' % wanted[7]


def test_labels_takes_odd_points_and_refuses_nonsense(seg: Segmentation) -> None:
    labels = np.arange(4096, dtype=np.uint64) + np.uint64(2**63)
    seg.ask("POST", "raw/0_1_2/16_16_16/0_0_0", labels.tobytes())
    assert seg.ask("GET", "labels", b"[]").content == b"[]"
    assert seg.ask("GET", "labels", b"[[1], [1,1,1,9], null]").json() == [2**63 + 1, 2**63 + 273, 2**63]
    for body in (b"", b"{", b"{}", b"[1]", b'[["1",0,0]]', b"[[1.5,0,0]]", b"[[4294967296,0,0]]"):
        assert seg.ask("GET", "labels", body).status_code == 400, body
    assert seg.ask("POST", "labels", b"[]").status_code == 400
    for coord in ("", "1_2", "1_2_3_4", "a_0_0", "9999999999_0_0"):
        assert seg.ask("GET", f"label/{coord}").status_code == 400, coord


def test_pseudocolor(seg: Segmentation) -> None:
    labels = labels_of((16, 16, 16))
    seg.ask("POST", "raw/0_1_2/16_16_16/0_0_0", labels.tobytes())
    answer = seg.get("pseudocolor/xz/12_9/2_3_4")
    found = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert np.array_equal(found, pseudocolors(labels[4:13, 3, 2:14])[..., :3])
    assert seg.get("pseudocolor/xy/8_8/0_0_0/jpg:70").headers["Content-Type"] == "image/jpeg"
    assert seg.ask("GET", "pseudocolor/0_1_2/4_4_4/0_0_0").status_code == 400
    assert seg.ask("POST", "pseudocolor/xy/4_4/0_0_0").status_code == 400


def test_a_block_that_is_asked_for_again_shows_the_last_write(seg: Segmentation) -> None:
    """Whole blocks are kept as they were sent, each encoding by itself, and parts of blocks are not."""
    path = "raw/0_1_2/16_16_16/16_0_0"
    for _ in range(3):
        labels = labels_of((16, 16, 32))
        seg.ask("POST", "raw/0_1_2/32_16_16/0_0_0", labels.tobytes())
        block = np.ascontiguousarray(labels[:, :, 16:])
        for _ in range(4):
            for name in ("google", "googlegzip"):
                google = seg.get(f"{path}?compression={name}").content
                assert np.array_equal(decode_segmentation(google, (16, 16, 16)), block)
            packed = seg.get(f"{path}?compression=lz4").content
            assert lz4.block.decompress(packed, uncompressed_size=block.nbytes) == block.tobytes()
            google = seg.get("raw/0_1_2/16_16_16/8_0_0?compression=google").content
            assert np.array_equal(decode_segmentation(google, (16, 16, 16)), labels[:, :, 8:24])
    absent = seg.get("raw/0_1_2/16_16_16/16_0_64?compression=google").content
    assert not decode_segmentation(absent, (16, 16, 16)).any()


def test_blocks(seg: Segmentation) -> None:
    labels = labels_of((16, 16, 32))
    seg.ask("POST", "raw/0_1_2/32_16_16/0_0_0", labels.tobytes())
    frames = list(decode_frames(seg.get("blocks/48_16_16/-16_0_0").content, 1 << 20))
    assert [frame.coord_zyx for frame in frames] == [(0, 0, 0), (0, 0, 1)]
    plain = lz4.block.decompress(bytes(frames[1].payload), uncompressed_size=32768)
    assert plain == labels[:, :, 16:].tobytes()
    frames = list(decode_frames(seg.get("blocks/16_16_16/0_0_0?compression=uncompressed").content, 1 << 20))
    assert bytes(frames[0].payload) == labels[:, :, :16].tobytes()
    for path in ("blocks/16_16_15/0_0_0", "blocks/16_16_16/1_0_0", "blocks/16_16_16", "blocks"):
        assert seg.ask("GET", path).status_code == 400, path
    assert seg.ask("GET", "blocks/16_16_16/0_0_0?compression=zstd").status_code == 400


def test_blocks_of_an_instance_that_is_not_lz4(client: httpx.Client) -> None:
    seg = Segmentation(client, Compression="gzip")
    seg.ask("POST", "raw/0_1_2/16_16_16/0_0_0", bytes(32768))
    assert seg.ask("GET", "blocks/32_16_16/-16_0_0").status_code == 400
    assert seg.get("blocks/16_16_16/16_0_0").content == b""  # where no block is, none has another form
    assert len(seg.get("blocks/16_16_16/0_0_0?compression=uncompressed").content) == 16 + 32768


def test_info_and_verbs(seg: Segmentation) -> None:
    seg.ask("POST", "raw/0_1_2/16_16_16/16_0_0", bytes(32768))
    info = seg.get("info").json()
    assert list(info) == ["Base", "Extended"]
    assert info["Extended"]["Interpolable"] is False
    assert (info["Extended"]["MinPoint"], info["Extended"]["MinIndex"]) == ([16, 0, 0], None)
    assert seg.get("metadata").json()["Properties"]["MinIndex"] == [1, 0, 0]
    for verb in ("POST", "DELETE"):
        assert seg.ask(verb, "info").json() == info
        assert seg.ask(verb, "help").status_code == 200
    assert seg.ask("PUT", "info").text.startswith("labelblk only handles GET, POST, and DELETE HTTP verbs")
    for path in (
        "extents",
        "rawkey",
        "specificblocks",
        "subvolblocks/16_16_16/0_0_0",
        "arb/0_0_0/1_0_0/0_1_0/1",
    ):
        assert "Bad API call" in seg.ask("GET", path).text
    assert seg.ask("DELETE", "raw/0_1_2/16_16_16/0_0_0", bytes(32768)).status_code == 400
    for number, verb in enumerate(("POST", "DELETE"), start=40):
        assert seg.ask(verb, "resolution", b"[4,4,%d]" % number).status_code == 200
        assert seg.get("info").json()["Extended"]["VoxelSize"] == [4, 4, number]


def test_sync(seg: Segmentation) -> None:
    for name, kind in (("half", "labelblk"), ("gray", "uint8blk")):
        body = {"typename": kind, "dataname": name, "BlockSize": "16,16,16"}
        seg.client.post(f"/api/repo/{seg.root}/instance", json=body).raise_for_status()
    path = f"/api/node/{seg.root}/half"

    def sync(body: bytes, query: str = "") -> int:
        return seg.client.post(f"{path}/sync{query}", content=body).status_code

    def syncs() -> list[str]:
        names: list[str] = seg.client.get(f"{path}/info").json()["Base"]["Syncs"]
        return names

    refused = (
        b"",
        b"{",
        b"{}",
        b'{"sync": 1}',
        b'{"sync": "nosuch"}',
        b'{"sync": "gray"}',
        b'{"sync": "half"}',
    )
    assert [sync(body) for body in refused] == [400] * len(refused)
    assert seg.client.get(f"{path}/sync").status_code == 400
    assert (syncs(), sync(b'{"sync": "seg"}'), syncs()) == ([], 200, ["seg"])
    labels = labels_of((32, 32, 32))
    for query in ("", "?mutate=true&compression=gzip"):
        body = gzip.compress(labels.tobytes()) if "gzip" in query else labels.tobytes()
        assert seg.ask("POST", f"raw/0_1_2/32_32_32/0_0_0{query}", body).status_code == 200
        half = seg.client.get(f"{path}/raw/0_1_2/16_16_16/0_0_0").content
        assert half == labels[::2, ::2, ::2].tobytes()  # cubes of 4³
        labels = labels_of((32, 32, 32))
    assert (sync(b'{"sync": ""}'), syncs()) == (200, ["seg"])
    assert (sync(b'{"sync": ""}', "?replace=true"), syncs()) == (200, [])
