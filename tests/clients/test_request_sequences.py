"""The requests that neuclease, libdvid and pydvid send, as they send them: verbs, options, headers and bodies.

These clients cannot be installed from a registry, or no longer run; what they send and what they need of the answers was
read from their sources. Everything is sent over plain sockets of `http.client`, which adds nothing of its own.
"""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lz4.block
import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.server.app import running

OCTETS = "application/octet-stream"
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers (lower case) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.body)


class Client:
    """One kept connection; `headers` and `query` go with every request, and no others do."""

    def __init__(self, url: str, headers: Mapping[str, str], query: str = "") -> None:
        place = urlsplit(url)
        self.link = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
        self.host, self.headers, self.query = place.netloc, headers, query

    def send(self, verb: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        target = path + ("&" if "?" in path else "?") * bool(self.query) + self.query
        self.link.putrequest(verb, target, skip_host=True, skip_accept_encoding=True)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        every = {"Host": self.host, **self.headers, **named}
        if body is not None:
            every["Content-Length"] = str(len(body))
        for name, value in every.items():
            self.link.putheader(name, value)
        self.link.endheaders(body)
        answer = self.link.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def close(self) -> None:
        self.link.close()

    def ok(self, verb: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send what must be answered by 200 exactly, in one piece that was not compressed unasked."""
        answer = self.send(verb, path, body, **headers)
        assert answer.status == 200, (verb, path, answer)
        assert "content-encoding" not in answer.headers
        return answer


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with dvidzarr.open(tmp_path / "store") as catalog, running(catalog, Settings()) as address:
        yield address


def test_libdvid(url: str, stack: ExitStack) -> None:
    """libdvid-cpp: curl, which says of a GET that it is a form of length 0; JSON goes as octets."""
    headers = {"User-Agent": "libdvid/1.0", "Accept": "*/*"}
    curl = stack.enter_context(closing(Client(url, headers, "u=tester&app=libdvid")))

    def get(path: str) -> Answer:
        return curl.ok("GET", path, b"", Content_Type=FORM)

    def post(path: str, body: bytes) -> Answer:
        return curl.ok("POST", path, body, Content_Type=OCTETS)

    assert get("/api/server/info").json["DVID Version"]
    unknown = curl.send("GET", "/api/nothing/here", b"", Content_Type=FORM)
    assert (unknown.status, bool(unknown.body)) == (404, True)
    root = post("/api/repos", json.dumps({"alias": "a", "description": "d"}).encode()).json["root"]
    node, new = f"/api/node/{root}", f"/api/repo/{root}/instance"
    for kind, name, config in (
        ("uint8blk", "gray", {"BlockSize": "32,32,32"}),
        ("labelblk", "labels", {"BlockSize": "32,32,32"}),
        ("keyvalue", "kv", {}),
        ("roi", "region", {"BlockSize": "32,32,32"}),
    ):
        assert curl.send("GET", f"{node}/{name}/info", b"", Content_Type=FORM).status != 200  # absent
        post(new, json.dumps({"typename": kind, "dataname": name, **config}).encode())
        assert get(f"{node}/{name}/info").json["Base"]["TypeName"] == kind

    gray = np.random.default_rng(1).integers(0, 256, (32, 64, 64), np.uint8)
    raw = f"{node}/gray/raw/0_1_2/64_64_32/32_0_64"
    post(f"{raw}?throttle=on", gray.tobytes())
    assert get(f"{raw}?throttle=off").body == gray.tobytes()
    labels = np.random.default_rng(2).integers(2**63, 2**64, (32, 32, 64), np.uint64)
    raw = f"{node}/labels/raw/0_1_2/64_32_32/0_0_0?throttle=on&compression=lz4"
    post(raw, lz4.block.compress(labels.tobytes(), store_size=False))
    packed = get(raw).body
    assert lz4.block.decompress(packed, uncompressed_size=labels.nbytes) == labels.tobytes()
    assert get(f"{node}/labels/label/5_4_3").json == {"Label": int(labels[3, 4, 5])}

    post(f"{node}/kv/key/some", b"\0value")
    assert get(f"{node}/kv/key/some").body == b"\0value"
    assert get(f"{node}/kv/keys").json == ["some"]
    missing = curl.send("GET", f"{node}/kv/key/none", b"", Content_Type=FORM)
    assert (missing.status, bool(missing.body)) == (404, True)

    spans = [[0, 0, 0, 2], [0, 1, 1, 1]]
    post(f"{node}/region/roi", json.dumps(spans).encode())
    assert get(f"{node}/region/roi").json == spans
    inside = post(f"{node}/region/ptquery", json.dumps([[0, 0, 0], [40, 40, 3], [0, 40, 0]]).encode())
    assert inside.json == [True, True, False]
    parts = get(f"{node}/region/partition?batchsize=2").json
    assert parts["NumTotalBlocks"] >= 4
    assert parts["Subvolumes"]
    # a route that newer servers lack as well
    assert curl.send("DELETE", f"/api/repo/{root}/gray?imsure=true", b"").status == 404


class Neuclease(Client):
    """Python's `requests`; user and app with every request."""

    def __init__(self, url: str) -> None:
        headers = {
            "User-Agent": "python-requests/2.32.3",
            "Accept-Encoding": "gzip, deflate",
            "Accept": "*/*",
            "Connection": "keep-alive",
        }
        super().__init__(url, headers, "u=tester&app=neuclease")

    def post(self, path: str, value: object) -> Answer:
        return self.ok("POST", path, json.dumps(value).encode(), Content_Type="application/json")


def delimited(number: int, value: bytes) -> bytes:
    """Return a field of a protobuf message, of less than 128 bytes."""
    return bytes((number << 3 | 2, len(value))) + value


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the fields of a protobuf message of short texts."""
    while message:
        number, size = message[0] >> 3, message[1]
        yield number, message[2 : 2 + size]
        message = message[2 + size :]


def test_neuclease_on_versions(url: str, stack: ExitStack) -> None:
    """What neuclease does to make a repo, its versions, notes and logs; and what it reads of the repo's JSON."""
    client = stack.enter_context(closing(Neuclease(url)))
    post = client.post
    root = post("/api/repos", {"alias": "neuclease", "description": "about"}).json["root"]
    new = f"/api/repo/{root[:6]}/instance"
    post(new, {"typename": "keyvalue", "dataname": "kv", "versioned": "true", "tags": "type=meshes"})
    post(new, {"typename": "labelblk", "dataname": "seg", "versioned": "1", "BlockSize": "64,64,64"})
    post(new, {"typename": "roi", "dataname": "roi", "versioned": "1", "BlockSize": "32,32,32"})
    node = f"/api/node/{root}"
    post(f"{node}/log", {"log": ["first", "second"]})
    post(f"{node}/note", {"note": "about it"})
    assert client.ok("GET", f"{node}/note").json == {"note": "about it"}
    assert client.ok("GET", f"{node}/commit").json == {"Locked": False}
    assert post(f"{node}/commit", {"note": "done", "log": ["third"]}).json == {"committed": root}
    assert client.ok("GET", f"{node}/commit").json == {"Locked": True}
    child = post(f"{node}/newversion", {"note": "child", "uuid": "c" * 32}).json["child"]
    side = post(f"{node}/branch", {"branch": "side", "note": "", "uuid": ""}).json["child"]
    assert client.ok("GET", f"/api/repo/{root}/branch-versions/master").json == [child, root]

    info = client.ok("GET", f"/api/repo/{child}/info").json
    assert (info["Root"], info["Alias"], sorted(info["DataInstances"])) == (
        root,
        "neuclease",
        ["kv", "roi", "seg"],
    )
    nodes = info["DAG"]["Nodes"]
    assert {uuid: each["Branch"] for uuid, each in nodes.items()} == {root: "", child: "", side: "side"}
    for uuid, each in nodes.items():
        assert each["UUID"] == uuid
        assert each["Parents"] == ([] if uuid == root else [nodes[root]["VersionID"]])
        assert all(isinstance(number, int) for number in (each["VersionID"], *each["Children"]))
        assert all(datetime.fromisoformat(each[name]).tzinfo for name in ("Created", "Updated"))
    assert [line.partition("  ")[2] for line in nodes[root]["Log"]] == ["first", "second", "third"]
    refused = client.send("POST", f"{node}/kv/key/late", b"x", Content_Type=OCTETS)
    assert (refused.status, b"locked node" in refused.body) == (400, True)


def test_neuclease_on_values(url: str, stack: ExitStack) -> None:
    """How neuclease reads and writes values, also with JSON and protobuf in the body of GET."""
    client = stack.enter_context(closing(Neuclease(url)))
    root = client.post("/api/repos", {"alias": "neuclease", "description": "about"}).json["root"]
    for kind, name in (("keyvalue", "kv"), ("labelblk", "seg"), ("roi", "roi")):
        config = {"versioned": "true", "tags": "type=meshes"}
        client.post(f"/api/repo/{root[:6]}/instance", {"typename": kind, "dataname": name, **config})
    keys = f"/api/node/{root}/kv"
    for key, value in (("a", b"[1]"), ("b", b'{"x": 2}'), ("c", b"\0\xff")):
        client.ok("POST", f"{keys}/key/{key}", value, Content_Type=OCTETS)
    assert client.ok("HEAD", f"{keys}/key/a").body == b""
    assert client.send("HEAD", f"{keys}/key/z").status == 404
    missing = client.send("GET", f"{keys}/key/z")
    assert (missing.status, b"not found" in missing.body) == (404, True)
    assert client.ok("GET", f"{keys}/keyrange/a/b").json == ["a", "b"]
    assert client.ok("GET", f"{keys}/keyrangevalues/a/b?json=true&check=false").json == {
        "a": [1],
        "b": {"x": 2},
    }
    many = client.ok("GET", f"{keys}/keyvalues?json=true&check=false", b'["a", "b"]')
    assert many.json == {"a": [1], "b": {"x": 2}}
    message = b"".join(
        delimited(1, delimited(1, key) + delimited(2, value)) for key, value in ((b"d", b"4"), (b"e", b"5"))
    )
    client.ok("POST", f"{keys}/keyvalues", message, Content_Type=OCTETS)
    wanted = client.ok("GET", f"{keys}/keyvalues", b"".join(delimited(1, key) for key in (b"d", b"c")))
    pairs = [dict(fields(pair)) for _, pair in fields(wanted.body)]
    assert [(bytes(pair[1]), bytes(pair[2])) for pair in pairs] == [(b"d", b"4"), (b"c", b"\0\xff")]
    client.ok("DELETE", f"{keys}/key/a")
    assert client.ok("GET", f"{keys}/keys").json == ["b", "c", "d", "e"]
    assert client.ok("GET", f"{keys}/tags").json == {"Tags": {"type": "meshes"}}

    reference = client.ok("POST", f"{keys}/blobstore", b"blob", Content_Type=OCTETS).json["reference"]
    assert client.ok("GET", f"{keys}/blobstore/{reference}").body == b"blob"
    labels = np.arange(64**3, dtype=np.uint64)
    raw = f"/api/node/{root}/seg/raw/0_1_2/64_64_64/0_0_0?mutate=true"
    client.ok("POST", raw, labels.tobytes(), Content_Type=OCTETS)
    assert client.ok("GET", f"/api/node/{root}/seg/label/3_2_1").json == {"Label": 64 * 64 + 2 * 64 + 3}
    client.post(f"/api/node/{root}/roi/roi", [[0, 0, 0, 1]])
    assert client.ok("GET", f"/api/node/{root}/roi/roi").json == [[0, 0, 0, 1]]


def test_pydvid(url: str, stack: ExitStack) -> None:
    """The seed, pydvid of 2013: Python 2's httplib, JSON as text/json, exactly 200 and as many bytes as were asked for."""
    client = stack.enter_context(closing(Client(url, {"Accept-Encoding": "identity"})))

    def post(path: str, value: object) -> Answer:
        return client.ok("POST", path, json.dumps(value).encode(), Content_Type="text/json")

    root = post("/api/repos", {"alias": "seed", "description": ""}).json["root"]
    for kind, name in (("uint8blk", "gray"), ("keyvalue", "kv")):
        post(f"/api/repo/{root}/instance", {"typename": kind, "dataname": name})
    for path in ("/api/server/info", "/api/server/types", "/api/repos/info"):
        answer = client.ok("GET", path)
        assert isinstance(answer.json, dict)
        assert int(answer.headers["content-length"]) == len(answer.body)
    node = f"/api/node/{root}"
    metadata = client.ok("GET", f"{node}/gray/metadata").json
    assert [axis["Label"] for axis in metadata["Axes"]] == ["X", "Y", "Z"]
    assert all({"Label", "Resolution", "Units", "Size", "Offset"} <= axis.keys() for axis in metadata["Axes"])
    assert metadata["Properties"]["Values"] == [{"DataType": "uint8", "Label": "uint8"}]
    voxels = np.random.default_rng(3).integers(0, 256, (32, 32, 64), np.uint8)
    raw = f"{node}/gray/raw/0_1_2/64_32_32/0_32_0"
    assert client.ok("POST", raw, voxels.tobytes(), Content_Type=OCTETS).body == b""
    answer = client.ok("GET", raw)
    assert (answer.body, int(answer.headers["content-length"])) == (voxels.tobytes(), voxels.nbytes)
    assert [axis["Size"] for axis in client.ok("GET", f"{node}/gray/metadata").json["Axes"]] == [64, 32, 32]
    client.ok("POST", f"{node}/kv/key/name", b"value", Content_Type=OCTETS)
    assert client.ok("GET", f"{node}/kv/keys").json == ["name"]
    assert client.ok("GET", f"{node}/kv/key/name").body == b"value"
