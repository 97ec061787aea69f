"""Voxels over HTTP: a real store, a real server, numpy as the model (spec-voxels §6)."""

import io

import httpx
import lz4.block
import numpy as np
import pytest
from PIL import Image

from dvidzarr.wire.blockstream import decode_frames
from dvidzarr.wire.images import decode_jpeg_gray

RANDOM = np.random.default_rng(11)


class Node:
    """One instance in one version of a fresh repo."""

    def __init__(self, client: httpx.Client, **config: str) -> None:
        self.client = client
        self.root = client.post("/api/repos", json={"alias": "test"}).json()["root"]
        self.make("g", **config)
        self.version = self.root

    def make(self, name: str, **config: str) -> None:
        body = {"typename": "uint8blk", "dataname": name, **config}
        self.client.post(f"/api/repo/{self.root}/instance", json=body).raise_for_status()

    def get(self, path: str) -> httpx.Response:
        return self.client.get(f"/api/node/{self.version}/g/{path}")

    def post(self, path: str, content: bytes = b"") -> httpx.Response:
        return self.client.post(f"/api/node/{self.version}/g/{path}", content=content)

    def write(self, volume: np.ndarray, offset: tuple[int, int, int] = (0, 0, 0)) -> None:
        """Write a (z, y, x) volume at x, y, z."""
        size = "_".join(map(str, volume.shape[::-1]))
        answer = self.post(f"raw/0_1_2/{size}/{'_'.join(map(str, offset))}", volume.tobytes())
        assert (answer.status_code, answer.content) == (200, b"")
        assert "Content-Type" not in answer.headers

    def read(self, size: tuple[int, int, int], offset: tuple[int, int, int]) -> np.ndarray:
        """Read a (z, y, x) volume of an x, y, z size at x, y, z."""
        path = f"raw/0_1_2/{'_'.join(map(str, size))}/{'_'.join(map(str, offset))}"
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == "application/octet-stream"
        return np.frombuffer(answer.content, np.uint8).reshape(size[::-1])


@pytest.fixture
def node(client: httpx.Client) -> Node:
    return Node(client, BlockSize="16,16,16", Background="9")


def picture(answer: httpx.Response, media_type: str = "image/png") -> np.ndarray:
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == media_type
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def random_volume(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, np.uint8)


def test_written_and_unwritten_voxels(node: Node) -> None:
    volume = random_volume(16, 32, 48)
    node.write(volume, (-16, 0, 32))
    shown = np.zeros((20, 40, 60), np.uint8)  # absent voxels are 0, not Background
    shown[2:18, 4:36, 6:54] = volume
    np.testing.assert_array_equal(node.read((60, 40, 20), (-22, -4, 30)), shown)


def test_streamed_volume_equals_what_was_written(node: Node) -> None:
    volume = random_volume(160, 192, 512)  # 15 MiB: several slabs
    node.write(volume)
    np.testing.assert_array_equal(node.read((512, 192, 160), (0, 0, 0)), volume)
    np.testing.assert_array_equal(node.read((500, 180, 150), (7, 5, 3)), volume[3:153, 5:185, 7:507])


def test_chunked_bodies(node: Node) -> None:
    """The end of a chunk of chunked encoding is not the end of the body, however large or small the chunks are."""
    volume = random_volume(32, 64, 64)
    body = volume.tobytes()
    for length in (1000, 70_000):
        pieces = (body[start : start + length] for start in range(0, len(body), length))
        path = f"/api/node/{node.version}/g/raw/0_1_2/64_64_32/0_0_0"
        assert node.client.post(path, content=pieces).status_code == 200
        assert (node.read((64, 64, 32), (0, 0, 0)) == volume).all()


def test_what_was_read_is_never_what_is_written_later(node: Node) -> None:
    """Chunks stay decoded between requests: those of a version that was written again are others."""
    for value in (1, 2, 3):
        node.write(np.full((16, 16, 16), value, np.uint8))
        for _ in range(2):
            assert (node.read((16, 16, 16), (0, 0, 0)) == value).all()
            assert (node.read((8, 7, 6), (1, 2, 3)) == value).all()
            assert (node.read((32, 16, 16), (0, 0, 0))[:, :, :16] == value).all()


def test_stored_lz4_blocks(node: Node) -> None:
    """Blocks that lz4 makes smaller leave as they are stored; noise, constant and absent blocks are right too."""
    volume = np.zeros((16, 16, 64), np.uint8)
    volume[:, :, 16:32] = 5
    volume[:, :, 32:48] = random_volume(16, 16, 16)
    volume[:, :, 48:] = random_volume(16, 16, 16) & 3
    node.write(volume)
    frames = list(decode_frames(node.get("subvolblocks/80_16_16/0_0_0").content, 8192))
    assert [frame.coord_zyx for frame in frames] == [(0, 0, x) for x in range(4)]
    for x, frame in enumerate(frames):
        plain = np.frombuffer(lz4.block.decompress(frame.payload), np.uint8).reshape(16, 16, 16)
        assert (plain == volume[:, :, 16 * x : 16 * x + 16]).all()
        alone = node.get(f"subvolblocks/16_16_16/{16 * x}_0_0").content
        assert list(decode_frames(alone, 8192)) == [frame]
        assert node.get(f"specificblocks?blocks={x},0,0").content == alone
    assert node.get("subvolblocks/16_16_16/64_0_0").content == b""


def test_planes_in_every_format(node: Node) -> None:
    volume = random_volume(32, 32, 32)
    node.write(volume)
    np.testing.assert_array_equal(picture(node.get("raw/xy/20_10/3_4_5")), volume[5, 4:14, 3:23])
    np.testing.assert_array_equal(picture(node.get("raw/0_2/20_10/3_4_5/png")), volume[5:15, 4, 3:23])
    np.testing.assert_array_equal(picture(node.get("raw/YZ/20_10/3_4_5/")), volume[5:15, 4:24, 3])
    tiff = picture(node.get("raw/xy/20_10/3_4_5/tif"), "image/tiff")
    np.testing.assert_array_equal(tiff, volume[5, 4:14, 3:23])
    bmp = picture(node.get("raw/xy/20_10/3_4_5/bmp"), "image/bmp")
    np.testing.assert_array_equal(bmp, volume[5, 4:14, 3:23])
    assert picture(node.get("raw/xy/20_10/3_4_5/jpg:95"), "image/jpeg").shape == (10, 20)


def test_volume_as_jpeg(node: Node) -> None:
    node.write(np.full((16, 16, 16), 77, np.uint8))
    tall = picture(node.get("raw/0_1_2/16_8_4/0_0_0/jpeg"), "image/jpeg")
    assert tall.shape == (32, 16)
    assert abs(tall.astype(int) - 77).max() <= 2
    assert node.get("raw/0_1_2/16_8_4/0_0_0/jpg:90").headers["Content-Type"] == "application/octet-stream"


def test_isotropic_planes(client: httpx.Client) -> None:
    node = Node(client, BlockSize="16,16,16", VoxelSize="8,8,40")
    volume = random_volume(16, 16, 16)
    node.write(volume)
    stretched = picture(node.get("isotropic/xz/16_20/0_3_0"))
    np.testing.assert_array_equal(stretched, np.repeat(volume[:4, 3], 5, axis=0))
    np.testing.assert_array_equal(picture(node.get("isotropic/xy/9_8/1_2_3")), volume[3, 2:10, 1:10])
    assert node.get("isotropic/0_1_2/5_4_3/1_2_3").content == volume[3:6, 2:6, 1:6].tobytes()


def test_bare_blocks(node: Node) -> None:
    blocks = random_volume(2, 16, 16, 16)
    assert node.post("blocks/-1_0_2/2", blocks.tobytes() + b"surplus").status_code == 200
    absent = np.full((1, 16, 16, 16), 9, np.uint8)
    assert node.get("blocks/-1_0_2/3").content == np.concatenate((blocks, absent)).tobytes()
    assert node.get("blocks/0_0_0/0").content == b""
    assert node.get("info").json()["Extents"] == {"MinPoint": None, "MaxPoint": None}
    np.testing.assert_array_equal(node.read((16, 16, 16), (-16, 0, 32)), blocks[0])


def test_a_long_run_of_blocks_is_streamed(node: Node) -> None:
    blocks = random_volume(1500, 16, 16, 16)  # 6 MiB
    assert node.post("blocks/-700_1_2/1500", blocks.tobytes()).status_code == 200
    answer = node.get("blocks/-700_1_2/1500")
    assert int(answer.headers["Content-Length"]) == blocks.nbytes
    assert answer.content == blocks.tobytes()
    frames = node.get("subvolblocks/24000_16_16/-11200_16_32?compression=uncompressed").content
    assert [frame.coord_zyx[2] for frame in decode_frames(frames, 4096)] == list(range(-700, 800))


def test_a_short_run_of_blocks_stores_nothing(node: Node) -> None:
    answer = node.post("blocks/0_0_0/2", bytes(16**3 * 2 - 1))
    assert (answer.status_code, "ceased" in answer.text) == (400, True)
    assert node.get("blocks/0_0_0/1").content == bytes([9]) * 16**3


def test_framed_blocks(node: Node) -> None:
    volume = random_volume(16, 32, 32)
    node.write(volume)
    stream = node.get("subvolblocks/64_32_16/0_0_0").content
    frames = list(decode_frames(stream, 1 << 20))
    assert [frame.coord_zyx for frame in frames] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]
    assert lz4.block.decompress(bytes(frames[1].payload)) == volume[:16, :16, 16:32].tobytes()
    listed = node.get("specificblocks?blocks=1,1,0,5,5,5,1,1,0&compression=uncompressed").content
    assert [bytes(frame.payload) for frame in decode_frames(listed, 4096)] == [
        volume[:, 16:, 16:].tobytes()
    ] * 2


def test_blocks_stored_as_jpeg(client: httpx.Client) -> None:
    node = Node(client, BlockSize="16,16,16", Compression="jpeg")
    smooth = np.add.outer(np.arange(16), np.add.outer(np.arange(16), 4 * np.arange(16))).astype(np.uint8)
    node.write(smooth)
    lossy = node.read((16, 16, 16), (0, 0, 0))
    assert 0 < np.abs(lossy.astype(int) - smooth).mean() < 3
    for shift in range(3):
        for _ in range(3):  # what is kept of an answer gives way to a write
            path = "subvolblocks/32_16_16/0_0_0?compression=jpeg"
            (frame,) = decode_frames(node.get(path).content, 1 << 20)
            again = decode_jpeg_gray(frame.payload, 256, 16).reshape(16, 16, 16)
            assert np.abs(again.astype(int) - lossy).mean() < 1.5
        node.write(smooth + np.uint8(10 * (shift + 1)))
        lossy = node.read((16, 16, 16), (0, 0, 0))


def test_arbitrary_planes(node: Node) -> None:
    volume = random_volume(16, 16, 16)
    node.write(volume)
    image = picture(node.get("arb/0_0_40/120_0_40/0_120_40/8"))
    np.testing.assert_array_equal(image, volume[5])
    assert (picture(node.get("arb/4000_0_0/4080_0_0/4000_80_0/8")) == 9).all()


def test_info_and_metadata(node: Node) -> None:
    node.write(random_volume(16, 32, 48), (-16, 0, 32))
    info = node.get("info").json()
    assert list(info) == ["Base", "Extended", "Extents"]
    assert info["Extents"] == {"MinPoint": [-16, 0, 32], "MaxPoint": [31, 31, 47]}
    assert (info["Extended"]["MinIndex"], info["Extended"]["MaxIndex"]) == ([-1, 0, 2], [1, 1, 2])
    metadata = node.get("metadata")
    assert metadata.headers["Content-Type"] == "application/vnd.dvid-nd-data+json"
    assert metadata.text.endswith("}\n")
    x = {"Label": "X", "Resolution": 8, "Units": "nanometers", "Size": 48, "Offset": -16}
    assert metadata.json()["Axes"][0] == x
    assert '"Resolution":8,' in metadata.text  # as Go writes it, not 8.0


def test_extents_and_resolution_are_set(node: Node) -> None:
    body = b'{"minpoint": [1, 2, 3], "MAXPOINT": [40, 50, 60]}'
    assert node.post("extents", body).status_code == 200
    assert node.post("resolution", b"[4, 5.5, 40.25]").status_code == 200
    info = node.get("info").json()
    assert info["Extents"] == {"MinPoint": [1, 2, 3], "MaxPoint": [40, 50, 60]}
    assert info["Extended"]["VoxelSize"] == [4, 5.5, 40.25]


def test_child_versions_overlay_their_parent(node: Node) -> None:
    old, new = random_volume(16, 16, 32), random_volume(16, 16, 16)
    node.write(old)
    node.client.post(f"/api/node/{node.root}/commit", json={"note": "done"}).raise_for_status()
    answer = node.post("raw/0_1_2/16_16_16/0_0_0", new.tobytes())
    assert answer.status_code == 400
    assert f'Cannot do POST on endpoint "raw" of locked node {node.root}' in answer.text
    node.version = node.client.post(f"/api/node/{node.root}/newversion", json={}).json()["child"]
    node.write(new)
    shown = np.concatenate((new, old[..., 16:]), axis=2)
    np.testing.assert_array_equal(node.read((32, 16, 16), (0, 0, 0)), shown)
    node.version = node.root
    np.testing.assert_array_equal(node.read((32, 16, 16), (0, 0, 0)), old)


REFUSED = [
    ("raw/0_1_2/4_4", '"raw" must be followed by shape/size/offset'),
    ("raw/0_1_2/0_4_4/0_0_0", "Illegal geometry requested: 3d volume (0,4,4) at offset (0,0,0)"),
    ("raw/0_1_2/-4_-4_4/0_0_0", "Illegal geometry requested"),
    ("raw/0_1_2/100000_100000_100000/0_0_0", "Requested payload (1000000000000000 bytes) exceeds"),
    ("raw/0_1_2/9223372036854775808_1_1/0_0_0", "value out of range"),
    ("raw/0_1_2/" + "9" * 5000 + "_1_1/0_0_0", "value out of range"),
    ("raw/xy/2000000000_2000000000/0_0_0", "exceeds"),
    ("raw/xy/70000_2/0_0_0/jpg", "65535"),
    ("raw/xy/4_4/0_0_0/gif", "Illegal image format requested: gif"),
    ("raw/zy/4_4/0_0_0", "Unknown data shape specification (zy)"),
    ("raw/0_1_2/4_4_4/0_0_0?roi=nosuch", 'Can\'t get ROI with name "nosuch": invalid data instance name'),
    ("raw/0_1_2/4_4_4/0_0_0?roi=g", 'Data name "g" was not of roi data type'),
    ("info?roi=g&attenuation=8", "Attenuation should be from 1 to 7"),
    ("info?roi=g&attenuation=x", 'strconv.Atoi: parsing "x": invalid syntax'),
    ("blocks/0_0_0", '"blocks" must be followed by block-coord/span-x'),
    ("blocks/0_0/1", 'cannot convert "0_0" into a ChunkPoint3d'),
    ("blocks/0_0_0/-1", "negative"),
    ("blocks/0_0_0/999999999999", "exceed"),
    ("subvolblocks/16_16_16", "must be followed by"),
    ("subvolblocks/16_16_16/1_0_0", "non-block aligned geometry (1,0,0) -> (16,15,15)"),
    ("subvolblocks/16_16_16/0_0_0?compression=zip", "don't understand 'compression' query string value: zip"),
    ("specificblocks?blocks=0,0", "three coordinates per block"),
    ("specificblocks?blocks=0,0,%200", 'strconv.Atoi: parsing " 0": invalid syntax'),
    ("arb/0_0_0/8_0_0/0_8_0", '"arb" must be followed by top-left/top-right/bottom-left/res'),
    ("arb/0_0_0/8_0_0/0_8_0/-1", "not positive"),
    ("rawkey/1_2_3", "rawkey endpoint should be followed by query strings"),
    ("extents", "extents endpoint only supports POST HTTP verb"),
    ("nosuch", "Bad API call (/api/node/"),
]


@pytest.mark.parametrize(("path", "words"), REFUSED, ids=[path[:40] for path, _ in REFUSED])
def test_refusals(node: Node, path: str, words: str) -> None:
    answer = node.get(path)
    assert answer.status_code == 400
    assert words in answer.text


@pytest.mark.parametrize(
    ("path", "size", "words"),
    [
        ("raw/0_1_2/16_16_16/0_0_0", 4095, "voxels data was 4095 bytes, expected 4096 bytes for 3d volume"),
        ("raw/0_1_2/16_16_16/0_0_0", 4097, "voxels data was 4097 bytes"),
        ("raw/0_1_2/16_16_16/1_0_0", 4096, "non-block aligned geometry (1,0,0) -> (16,15,15)"),
        ("raw/xy/16_16/0_0_0", 256, "DVID does not permit 2d mutations"),
        ("isotropic/0_1_2/16_16_16/0_0_0", 4096, "can only POST 'raw' not 'isotropic' images"),
        ("extents", 0, "unexpected end of JSON input"),
        ("resolution", 0, "unexpected end of JSON input"),
    ],
)
def test_refused_writes_leave_nothing(node: Node, path: str, size: int, words: str) -> None:
    answer = node.post(path, b"\x01" * size)
    assert answer.status_code == 400
    assert words in answer.text
    assert not node.read((64, 32, 32), (-16, 0, 0)).any()


@pytest.mark.parametrize(
    "body", [b"[]", b'{"MinPoint": ["a",0,0]}', b'{"MinPoint": [1.5,0,0]}', b'{"MinPoint":[0']
)
def test_bad_extents(node: Node, body: bytes) -> None:
    assert node.post("extents", body).status_code == 400


@pytest.mark.parametrize(
    "body", [b"{}", b"[4,4]", b'["a",1,2]', b"[1e39,1,1]", b"[-1e39,1,1]", b"[true,1,1]", b"null"]
)
def test_bad_resolution(node: Node, body: bytes) -> None:
    assert node.post("resolution", body).status_code == 400
    assert node.get("info").json()["Extended"]["VoxelSize"] == [8, 8, 8]


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH"])
def test_verbs_that_the_family_does_not_know(node: Node, method: str) -> None:
    assert node.client.request(method, f"/api/node/{node.root}/g/info").status_code == 400
