"""keyvalue and blobstore over HTTP: a real store, a real server (spec-keyvalue, spec-server §4.7)."""

import io
import os
import socket
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

import dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.http import pump
from dvidzarr.server.app import running
from dvidzarr.wire.keyvalues import decode_key_values, key_value_head
from dvidzarr.wire.protobuf import bytes_head, varint

PLAIN = b"abcdefghijklmnopqrstuvwxyz"


class Node:
    """A keyvalue instance in a fresh repo; `version` is where requests go."""

    def __init__(self, client: httpx.Client, **config: object) -> None:
        self.client = client
        self.root = client.post("/api/repos", json={}).json()["root"]
        body = {"typename": "keyvalue", "dataname": "kv", **config}
        client.post(f"/api/repo/{self.root}/instance", json=body).raise_for_status()
        self.version = self.root

    def __call__(self, method: str, path: str, content: object = None, **options: object) -> httpx.Response:
        place = f"/api/node/{self.version}/kv/{path}"
        return self.client.request(method, place, content=content, **options)  # type: ignore[arg-type]

    def put(self, key: str, value: bytes) -> None:
        answer = self("POST", f"key/{quote(key)}", value)
        assert (answer.status_code, answer.content) == (200, b"")
        assert "Content-Type" not in answer.headers

    def fetch(self, key: str) -> bytes:
        answer = self("GET", f"key/{quote(key)}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def commit(self) -> None:
        self.client.post(f"/api/node/{self.version}/commit", json={}).raise_for_status()

    def descend(self) -> str:
        self.commit()
        answer = self.client.post(f"/api/node/{self.version}/newversion", json={})
        self.version = answer.json()["child"]
        return self.version


@pytest.fixture
def node(client: httpx.Client) -> Node:
    return Node(client)


def refused(answer: httpx.Response, words: str, status: int = 400) -> None:
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


# --- one key ---------------------------------------------------------------------------------------------------


def test_put_get_delete(node: Node) -> None:
    assert node("HEAD", "key/mykey").status_code == 404
    node.put("mykey", b"some stuff")
    answer = node("GET", "key/mykey")
    assert answer.content == b"some stuff"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert (answer.headers["Accept-Ranges"], answer.headers["Content-Length"]) == ("bytes", "10")
    head = node("HEAD", "key/mykey")
    assert (head.status_code, head.headers["Accept-Ranges"]) == (200, "bytes")
    assert "Content-Type" not in head.headers
    assert "Content-Length" not in head.headers  # 0 would be taken for the length of the value
    assert node("DELETE", "key/mykey").status_code == 200
    missing = node("GET", "key/mykey")
    assert (missing.status_code, missing.text) == (404, 'Key "mykey" not found\n')
    assert node("DELETE", "key/never").status_code == 200


@pytest.mark.parametrize(
    "key", ["é x", "a+b", "%41", "ключ", "<&>", 'say "hi"', "back\\slash", "..", "x" * 4096, "\x01"]
)
def test_odd_keys(node: Node, key: str) -> None:
    raw = quote(key, safe="+").replace(".", "%2E")
    with socket.create_connection(urlsplit(str(node.client.base_url)).netloc.split(":")) as link:
        head = f"POST /api/node/{node.root}/kv/key/{raw} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nv"
        link.sendall(head.encode())  # httpx would clean `..`
        assert link.recv(100).startswith(b"HTTP/1.1 200")
    assert node("GET", "keys").json() == [key]
    assert node("GET", "keyrangevalues/%01/%F0%9F?json=true").text.startswith("{")


def test_only_one_segment_is_the_key(node: Node) -> None:
    node("POST", "key/a/b", b"1")
    assert node("GET", "keys").json() == ["a"]
    refused(node("GET", "key/"), "expect key string to follow 'key' endpoint")
    refused(node("POST", "key", b"1"), "expect key string")
    refused(node("POST", "key/x%00y", b"1"), "is no key")


def test_bytes_that_are_no_text(node: Node) -> None:
    assert node("POST", "key/%FF", b"1").status_code == 200
    assert node("GET", "key/%FF").content == b"1"
    assert node("GET", "keys").json() == ["\ufffd"]
    assert '"\\xff" not found' in node("GET", "key/%FF%FF").text.replace("\\xff\\xff", "\\xff")


@pytest.mark.parametrize("size", [0, 1024, 65_536, 65_537, 1 << 20, 20_000_001])
def test_values_of_every_size(node: Node, size: int) -> None:
    value = os.urandom(size)
    node.put("k", value)
    assert node.fetch("k") == value
    answer = node("POST", "key/chunked", iter([value[: size // 2], value[size // 2 :]]))
    assert answer.status_code == 200
    assert node.fetch("chunked") == value
    if size:
        part = node("GET", f"key/k?byte_start={size // 3}&byte_end={size - 1}")
        assert part.content == value[size // 3 :]
        assert part.headers["Content-Length"] == str(size - size // 3)


def test_a_body_that_ends_early_changes_nothing(node: Node, url: str) -> None:
    node.put("k", b"before")
    host = urlsplit(url).netloc.split(":")
    for size in (100, 200_000):
        with socket.create_connection(host) as link:
            head = f"POST /api/node/{node.root}/kv/key/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
            link.sendall(head.encode() + b"x" * (size // 2))
    assert node.fetch("k") == b"before"


def test_byte_ranges(node: Node) -> None:
    node.put("plain", PLAIN)
    answer = node("GET", "key/plain?byte_start=2&byte_end=5")
    assert (answer.status_code, answer.content) == (200, b"cdef")
    assert "Content-Range" not in answer.headers
    answer = node("GET", "key/plain", headers={"Range": "bytes=24-100"})
    assert (answer.status_code, answer.content) == (206, b"yz")
    assert (answer.headers["Content-Range"], answer.headers["Accept-Ranges"]) == ("bytes 24-25/26", "bytes")
    answer = node("GET", "key/plain", headers={"Range": "bytes=26-30"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */26")
    assert answer.text == "Range start 26 is outside value with 26 bytes\n"
    assert node("GET", "key/plain", headers={"Range": "bytes=5-2"}).content == PLAIN
    both = node("GET", "key/plain?byte_start=0&byte_end=1", headers={"Range": "bytes=2-5"})
    refused(both, "cannot combine Range header")
    refused(node("GET", "key/none?byte_start=0&byte_end=1"), "not found", 404)
    head = node("HEAD", "key/plain?byte_start=5&byte_end=1")
    assert head.status_code == 200


@pytest.mark.parametrize("verb", ["PUT", "PATCH", "OPTIONS"])
def test_verbs_that_key_does_not_know(node: Node, verb: str) -> None:
    refused(node(verb, "key/k", b"x"), f'key endpoint does not support "{verb.lower()}" HTTP verb')
    refused(node(verb, "keyvalues", b"x"), f'key endpoint does not support "{verb.lower()}" HTTP verb')


def test_many_clients_at_once(node: Node, url: str) -> None:
    def work(number: int) -> None:
        with httpx.Client(base_url=url) as client:
            for index in range(30):
                body = b"%d-%d" % (number, index)
                client.post(
                    f"/api/node/{node.root}/kv/key/{number}-{index % 10}", content=body
                ).raise_for_status()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    want = {
        f"{number}-{index % 10}": b"%d-%d" % (number, index) for number in range(8) for index in range(20, 30)
    }
    body = node("GET", "keyrangevalues/0/99").content
    assert {key.decode(): bytes(value) for key, value in decode_key_values(memoryview(body))} == want


# --- several keys ------------------------------------------------------------------------------------------------


def test_listings(node: Node) -> None:
    assert node("GET", "keys").text == node("GET", "keyrange/a/z").text == "[]"
    for key in ("heresanotherkey", "mykey", "my2ndkey"):
        node.put(key, b"1")
    assert node("GET", "keys").json() == ["heresanotherkey", "my2ndkey", "mykey"]
    assert node("PUT", "keyrange/my/zebra").json() == ["my2ndkey", "mykey"]
    refused(node("GET", "keyrange/my"), "expect beginning and end keys to follow 'keyrange' endpoint")
    refused(
        node("GET", "keyrangevalues"), "expect beginning and end keys to follow 'keyrangevalues' endpoint"
    )
    assert node("HEAD", "keys").headers["Content-Type"] == "application/json"


def test_ranges_with_values(node: Node) -> None:
    node.put("key1", b"[1, 2, 3]")
    node.put("key2", b'{"foo":"a string"}')
    node.put("key3", b"")
    answer = node("GET", "keyrangevalues/a/zz?json=true")
    assert answer.text == '{"key1":[1, 2, 3],"key2":{"foo":"a string"}}'
    assert answer.headers["Content-Type"] == "application/json"
    answer = node("GET", "keyrangevalues/key2/zz?tar=true")
    assert answer.headers["Content-Type"] == "application/tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert [(member.name, member.size) for member in archive] == [("key2", 18)]
    body = memoryview(node("GET", "keyrangevalues/key1/key1").content)
    assert [(key, bytes(value)) for key, value in decode_key_values(body)] == [(b"key1", b"[1, 2, 3]")]
    refused(node("GET", "keyrangevalues/a/b?json=true&tar=true"), "can only specify tar or json output")
    node.put("key1", b"no json")
    assert node("GET", "keyrangevalues/a/key1?json=true").text == '{"key1":no json}'
    refused(node("GET", "keyrangevalues/a/zz?json=true&check=true"), "bad JSON for key")


@pytest.mark.parametrize("way", ["tar=true", "json=true", ""])
def test_long_answers_are_streamed(node: Node, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "BLOCK", 50_000)
    values = {f"k{number:02d}": b'"%s"' % (b"%d" % number * 30_000) for number in range(20)}
    for key, value in values.items():
        node.put(key, value)
    answer = node("GET", f"keyrangevalues/a/z?{way}")
    assert answer.headers.get("Transfer-Encoding") == "chunked"
    if way == "json=true":
        assert answer.json() == {key: value.decode()[1:-1] for key, value in values.items()}
    elif way:
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
            found = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        assert found == values
    else:
        found = {key.decode(): bytes(v) for key, v in decode_key_values(memoryview(answer.content))}
        assert found == values


def test_a_failure_within_a_stream_cuts_the_connection(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "BLOCK", 5000)
    for number in range(10):
        node.put(f"k{number}", b"[" + b"1," * 2000 + b"1]")
    node.put("k9", b"no json")
    with pytest.raises(httpx.RemoteProtocolError):
        node("GET", "keyrangevalues/a/z?json=true&check=true")


def test_listed_keys(node: Node) -> None:
    node.put("json", b"1234567890")
    node.put("full", b'{"ok":true}')
    node.put("plain", PLAIN)
    asked = '[{"key":"json","byte_start":2,"byte_end":5},{"key":"full"},{"key":"missing","byte_start":0,"byte_end":2}]'
    assert node("GET", "keyvalues?json=true", asked).text == '{"json":3456,"full":{"ok":true},"missing":{}}'
    assert node("GET", "keyvalues?json=true", '["full","none","full"]').text == (
        '{"full":{"ok":true},"none":{},"full":{"ok":true}}'
    )
    prefix = 'GET /keyvalues on 0 keys, data "kv": '
    bad = node("GET", "keyvalues?json=true", '[{"key":"plain","byte_start":2,"byte_end":5}]')
    refused(bad, prefix + 'bad JSON for key "plain" after byte range')
    refused(node("GET", "keyvalues?json=true", ""), prefix + "unexpected end of JSON input")
    tar = node("GET", "keyvalues?jsontar=true", '[{"key":"plain","byte_start":4,"byte_end":7},"x"]')
    refused(tar, "cannot be mixed")
    tar = node("GET", "keyvalues?jsontar=true", '[{"key":"plain","byte_start":4,"byte_end":7},{"key":"x"}]')
    with tarfile.open(fileobj=io.BytesIO(tar.content)) as archive:
        assert [(member.name, member.size) for member in archive] == [("plain", 4), ("x", 0)]


def test_protobuf_keys_and_values(node: Node) -> None:
    pairs = [(b"a/b", b"1"), (b"full", b"full value"), (b"plain", PLAIN)]
    body = b"".join(key_value_head(key, len(value)) + value for key, value in pairs)
    assert node("POST", "keyvalues", body).status_code == 200
    assert node("GET", "keys").json() == ["a/b", "full", "plain"]
    part = bytes_head(1, 5) + b"plain" + varint(2 << 3) + varint(1) + varint(3 << 3) + varint(3)
    asked = bytes_head(1, 3) + b"a/b" + bytes_head(2, len(part)) + part + bytes_head(1, 4) + b"none"
    answer = node("GET", "keyvalues", asked)
    found = [(key, bytes(value)) for key, value in decode_key_values(memoryview(answer.content))]
    assert found == [(b"a/b", b"1"), (b"none", b""), (b"plain", b"bcd")]
    assert node("GET", "keyvalues", b"").content == b""
    turned = bytes_head(1, 4) + b"none" + varint(2 << 3) + varint(5) + varint(3 << 3) + varint(2)
    answer = node("GET", "keyvalues", bytes_head(2, len(turned)) + turned)
    refused(answer, 'GET /keyvalues on 0 keys, data "kv": byte_start 5 must be <= byte_end 2 for key "none"')
    refused(node("POST", "keyvalues", b'{"a": 1}'), "proto: cannot parse invalid wire-format data")
    refused(node("POST", "keyvalues", body + key_value_head(b"", 1) + b"x"), "is no key")
    assert node("POST", "keyvalues", b"").status_code == 200


# --- versions ----------------------------------------------------------------------------------------------------


def test_versions_and_locks(node: Node) -> None:
    node.put("k", b"A")
    child = node.descend()
    node.put("k", b"B")
    grandchild = node.descend()
    node("DELETE", "key/k")
    assert node("GET", "key/k").status_code == 404
    node.version = child
    assert node.fetch("k") == b"B"
    refused(node("POST", "key/k", b"C"), f'Cannot do POST on endpoint "key" of locked node {child}')
    refused(node("POST", "keys"), "locked node")
    refused(node("POST", "tags", b"{}"), "locked node")
    node.version = node.root
    assert node.fetch("k") == b"A"
    records = node("GET", f"mutations-range/{node.root}/{grandchild}")
    assert records.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert [(each["Action"], each["UUID"]) for each in records.json()] == [
        ("delete", grandchild),
        ("postkv", child),
        ("postkv", node.root),
    ]
    assert len(node("GET", f"mutations-range/{child}/{grandchild}").json()) == 2
    assert node("GET", "mutations").json()[0]["Bytes"] == 1
    refused(node("GET", f"mutations-range/{child}"), "expect beginning and end versions")
    refused(node("GET", f"mutations-range/zzz/{child}"), "could not find UUID")


def test_unversioned(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        node = Node(client, versioned="false")
        node.put("a", b"1")
        node.descend()
        node.put("a", b"2")
        assert [each["Bytes"] for each in node("GET", "mutations").json()] == [1]
        node.version = node.root
        assert node.fetch("a") == b"2"
        node.put("b", b"on the locked root")
        assert node("POST", "tags", b'{"x": "y"}').status_code == 200


def test_tags(node: Node) -> None:
    assert node("GET", "tags").json() == {"Tags": None}
    assert node("POST", "tags", b'{"b": "1", "a": "2"}').content == b""
    assert node("POST", "tags", b"").status_code == 200
    assert node("PUT", "tags").json() == {"Tags": {"a": "2", "b": "1"}}
    refused(node("POST", "tags", b'{"n": 1}'), "Malformed JSON request in tags setter")
    refused(node("POST", "tags", b"garbage"), "Malformed JSON request in tags setter")
    assert node("GET", "info").json()["Base"]["Tags"] == {"a": "2", "b": "1"}
    node("POST", "tags?replace=true", b"{}")
    assert node("GET", "tags").json() == {"Tags": {}}


def test_info_help_and_unknown_words(node: Node) -> None:
    info = node("POST", "info").json()
    assert (info["Base"]["TypeName"], info["Base"]["TypeVersion"], info["Extended"]) == (
        "keyvalue",
        "0.2",
        {},
    )
    assert "keyrangevalues" in node("GET", "help").text
    refused(node("GET", "sync"), "Bad API call")
    refused(node("POST", "mutations"), "only POST action allowed for /mappings endpoint")


def test_too_many_readers_of_the_record(tmp_path: Path) -> None:
    settings = Settings.load(env={}, overrides={"limits.max_throttled": 0})
    store = dvidzarr.open(tmp_path / "store")
    with store as catalog, running(catalog, settings) as url, httpx.Client(base_url=url) as client:
        node = Node(client)
        assert node("GET", "mutations?throttle=on").status_code == 503
        assert node("GET", "mutations").text == "[]"


# --- blobs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 70_000, 3_000_000])
def test_blobs(node: Node, size: int) -> None:
    value = os.urandom(size)
    node.commit()
    answer = node("POST", "blobstore", value)
    reference = answer.json()["reference"]
    assert answer.text == f'{{"reference": "{reference}"}}'
    assert node("POST", "blobstore/ignored", value).json()["reference"] == reference
    with httpx.Client(base_url=node.client.base_url) as client:
        other = Node(client)
        found = other("GET", f"blobstore/{reference}")
    assert (found.content, found.headers["Content-Type"]) == (value, "application/octet-stream")


def test_blob_references(node: Node) -> None:
    refused(node("GET", "blobstore"), "GET /blobstore requires reference")
    refused(node("GET", "blobstore/"), 'Reference "" not found', 404)
    refused(node("GET", "blobstore/AAAAAAAAAAAAAAAAAAAAAA=="), "not found", 404)
    for bad in ("8UtYSGSD2U9wgDh5jClpfw", "zzz", "not*base64!"):
        refused(node("GET", f"blobstore/{bad}"), "illegal base64 data")
    for verb in ("PUT", "DELETE", "PATCH"):
        refused(node(verb, "blobstore"), "can only do GET and POST actions on blobstore endpoint")


# --- large values ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_value_of_a_gibibyte_stays_on_the_disk(tmp_path: Path) -> None:
    """Memory of the process grows by far less than the value while it is written and read."""
    import resource

    piece = os.urandom(1 << 20)
    store = dvidzarr.open(tmp_path / "store")
    with (
        store as catalog,
        running(catalog, Settings()) as url,
        httpx.Client(base_url=url, timeout=300) as client,
    ):
        node = Node(client)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = node("POST", "key/big", iter([piece] * 1024))
        assert answer.status_code == 200
        with client.stream("GET", f"/api/node/{node.root}/kv/key/big") as stream:
            total = sum(len(part) for part in stream.iter_raw())
        assert total == 1 << 30
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * (1 if sys.platform == "darwin" else 1024) < 300 << 20


def test_a_reader_that_leaves(node: Node) -> None:
    """It holds nobody up."""
    node.put("k", os.urandom(4_000_000))
    left = threading.Event()

    def leave() -> None:
        path = f"/api/node/{node.root}/kv/key/k"
        with httpx.Client(base_url=node.client.base_url) as client, client.stream("GET", path) as stream:
            next(stream.iter_raw(1000))
        left.set()

    threading.Thread(target=leave).start()
    assert left.wait(120)
    assert len(node.fetch("k")) == 4_000_000
