"""Every route against every role, and random requests: no 5xx, nothing changes that must not."""

import random
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

import dvidzarr
from dvidzarr.http.endpoint import Endpoint
from dvidzarr.repo.catalog import Catalog
from dvidzarr.server import routes_blobs
from dvidzarr.server.dispatch import FIXED_ENDPOINTS
from dvidzarr.server.tables import table_of
from tests.integration.hostile_wire import mutated, pipelined, request, statuses
from tests.integration.server_process import MIB, Served, served
from tests.integration.server_stub import client

BLOCK = bytes(32**3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "store"


@pytest.fixture(scope="module")
def catalog(store: Path) -> Iterator[Catalog]:
    with dvidzarr.open(store, "w") as catalog:
        yield catalog


@pytest.fixture(scope="module")
def http(catalog: Catalog) -> Iterator[httpx.Client]:
    with client(catalog) as http:
        yield http


@pytest.fixture(scope="module")
def root(http: httpx.Client) -> str:
    root = str(http.post("/api/repos", json={"alias": "hostile"}).json()["root"])
    http.post(f"/api/repo/{root}/instance", json={"typename": "uint8blk", "dataname": "gray"})
    http.post(f"/api/node/{root}/gray/raw/0_1_2/32_32_32/0_0_0", content=BLOCK)
    http.post(f"/api/node/{root}/commit", json={})
    return root


def address_of(row: Endpoint, root: str, *, instance: str = "") -> str:
    """Return a path that reaches an endpoint."""
    values = {"uuid": root, "name": "gray", "type": "uint8blk", "branch": "master"}
    words = [values.get(word[1:-1], "1") if word.startswith("{") else word for word in row.words]
    return "/".join(["/api", *(("node", root, instance) if instance else ()), *words])


def snapshot(http: httpx.Client, root: str) -> tuple[dict[str, object], bytes]:
    repos = http.get("/api/repos/info").json()
    for repo in repos.values():
        del repo["MutationID"]  # a follower sees the reserved range, not the last one given out
    return repos, http.get(f"/api/node/{root}/gray/raw/0_1_2/32_32_32/0_0_0").content


def rows_of(catalog: Catalog) -> list[tuple[Endpoint, str]]:
    below = [row for datatype in catalog.registry.values() for row in table_of(datatype).endpoints]
    return [(row, "") for row in FIXED_ENDPOINTS] + [(row, "gray") for row in below]


def test_read_only_server_refuses_every_other_verb(store: Path, http: httpx.Client, root: str) -> None:
    before = snapshot(http, root)
    with (
        dvidzarr.open(store, "r") as follower,
        client(follower) as reader,
    ):
        for row, instance in rows_of(follower):
            for method in row.methods:
                if method in ("GET", "HEAD") or row.words[0] == "server":
                    continue
                path = address_of(row, root, instance=instance)
                answer = reader.request(method, f"{path}?imsure=true", content=b"{}")
                assert answer.status_code in (400, 404), (method, path, answer.text)
        assert snapshot(reader, root) == before


def test_locked_version_stays_as_it_is(catalog: Catalog, http: httpx.Client, root: str) -> None:
    before = http.get(f"/api/node/{root}/gray/raw/0_1_2/32_32_32/0_0_0").content
    for row, instance in rows_of(catalog):
        path = address_of(row, root, instance=instance)
        if not path.startswith("/api/node/") or row.words[-1] in ("newversion", "branch", "tag"):
            continue
        if row.effect == "query" or row in routes_blobs.ENDPOINTS:  # no lock concerns blobs
            continue
        for method in set(row.methods) - {"GET", "HEAD"}:
            answer = http.request(method, path, content=b'{"note": "x", "log": ["x"]}')
            assert answer.status_code == 400, (method, path)
            assert "locked node" in answer.text
    assert http.get(f"/api/node/{root}/gray/raw/0_1_2/32_32_32/0_0_0").content == before


def test_without_the_token_nothing_of_an_admin(
    store: Path, http: httpx.Client, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVID_ADMIN_TOKEN", "s3cret")
    with (
        dvidzarr.open(store, "r") as follower,
        client(follower) as reader,
    ):
        for row in FIXED_ENDPOINTS:
            if row.effect == "admin":
                for method in row.methods:
                    answer = reader.request(method, f"{address_of(row, root)}?admintoken=guess")
                    assert answer.status_code == 400, row.operation


# fmt: off
WORDS = (
    "api", "node", "repo", "repos", "server", "help", "info", "gray", "raw", "commit", "note", "log", "status",
    "branch", "newversion", "tag", "merge", "instance", "master", "metadata", "extents", "resolution", "png",
    "jpg:1", "..", ".", "%", "%00", "%2F", "%FF", "λ", "~", ":", "*", "nan", "inf", "1e999", "0", "-0", "", "a b",
)
NUMBERS = (
    "0_0_0", "32_32_32", "1_1_1", "-1_-1_-1", "0_0", "4_4", "64_64_64", "2147483647_0_0", "-2147483648_0_0",
    "99999999999_0_0", "0_1_2", "xy", "xz", "yz", "1", "8.5_1_2", "2147483647_2147483647_1", "1_1_2147483647",
)
BODIES = (
    b"{}", b"[]", b"null", b"{", b'{"note": 1}', b'{"log": [null]}', b'{"MinPoint": [1]}', b"[1, 2, 3]", b"",
    b"[1e400]", b'{"MinPoint": ["a"]}', b'{"parents": [1]}', b"\xff\x00", b"[" * 5000, BLOCK,
    b'{"a": 1' + b"0" * 5000 + b"}", b'{"typename": "uint8blk", "dataname": "x/../y", "blocksize": "0,0,0"}',
)
QUERIES = (
    "", "?blocks=1,2,3", "?blocks=1,2", "?blocks=a", "?throttle=on", "?compression=jpeg", "?u=%FF&app=%00",
    "?roi=x&attenuation=9", "?admintoken=x", "?compression=uncompressed", "?scale=x", "?%", "?" + "a=1&" * 500,
)
PATTERNS = (
    "/raw/{n}/{n}/{n}", "/raw/0_1_2/{n}/{n}", "/raw/xy/{n}/{n}/{w}", "/isotropic/{n}/{n}/{n}/{w}",
    "/arb/{n}/{n}/{n}/{n}", "/subvolblocks/{n}/{n}", "/blocks/{n}/{n}", "/{w}/{w}/{w}", "/{w}", "/{w}/{n}",
    "/specificblocks",
)
# fmt: on


def some_path(chance: random.Random, root: str) -> str:
    gray = f"/api/node/{root[:8]}/gray"
    start = chance.choice(["/api", f"/api/node/{root}", f"/api/repo/{root}", gray, gray, gray])
    pattern = chance.choice(PATTERNS)
    while "{" in pattern:
        pool = NUMBERS if chance.random() < 0.9 else WORDS
        pattern = pattern.replace("{n}", quote(chance.choice(pool), safe="%:*~"), 1)
        pattern = pattern.replace("{w}", quote(chance.choice(WORDS), safe="%:*~"), 1)
    return start + pattern + chance.choice(QUERIES)


@pytest.mark.parametrize("seed", range(4))
def test_random_requests(http: httpx.Client, root: str, seed: int) -> None:
    chance = random.Random(seed)
    before = http.get(f"/api/node/{root}/gray/raw/0_1_2/32_32_32/0_0_0").content
    seen: dict[int, int] = {}
    for _ in range(1000):
        path = some_path(chance, root)
        method = chance.choice(["GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
        status = raw_status(http, method, path, chance.choice(BODIES))
        assert 200 <= status < 500, (method, path, status)
        seen[status] = seen.get(status, 0) + 1
    assert set(seen) > {200, 400, 404}, seen
    assert http.get(f"/api/node/{root}/gray/raw/0_1_2/32_32_32/0_0_0").content == before


def raw_status(http: httpx.Client, method: str, path: str, body: bytes) -> int:
    """Return the status of a request sent as it is: a client library would mend it."""
    address = urlsplit(str(http.base_url))
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=120) as link:
        link.sendall(head.encode() + body)
        answer = link.recv(65536)
    return int(answer.split(b" ", 2)[1]) if answer else 0


# --- on the wire ------------------------------------------------------------------------------------------------

ROOT = "d" * 32
CHILD = "e" * 32
VERBS = ("GET", "GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")
KEYS = (
    "..%2F..%2F..%2Fescaped", "%2Fescaped", "..", "a%00b", "%0d%0aX:%20y", "k" * 3000, "%ff%fe", "a/b", "zarr.json",
    "~", "%2e%2e", ".%2Fstore.json", "a", "b",
)  # fmt: skip


FINE = {100, *range(200, 500), 503}


def some_request(chance: random.Random) -> tuple[str, bytes]:
    method, body = chance.choice(VERBS), chance.choice(BODIES)
    if chance.random() < 0.25:
        word = chance.choice(("key", "keyrange", "keys", "keyvalues", "keyrangevalues", "tags", "blobstore"))
        rest = "/".join(chance.choice(KEYS) for _ in range(chance.randint(1, 2)))
        return method, request(method, f"/api/node/{CHILD}/kv/{word}/{rest}{chance.choice(QUERIES)}", body)
    return method, request(method, some_path(chance, chance.choice((ROOT, CHILD))), body)


def prepare(store: Path) -> None:
    with dvidzarr.open(store, "w") as catalog:
        repo = catalog.create_repo(root=ROOT)
        gray = repo.create_instance("uint8blk", "gray", {"BlockSize": "32,32,32"}, repo.dag.root)
        repo.create_instance("keyvalue", "kv", {}, repo.dag.root)
        gray.at(repo.dag.root)[0:32, 0:32, 0:32] = 7
        repo.new_version(repo.commit(repo.dag.root), uuid=CHILD)


def outside(store: Path) -> dict[str, tuple[int, int]]:
    """Return all that lies beside a store, with times."""
    found = {}
    for path in sorted(store.parent.parent.rglob("*")):
        if store in path.parents or path.suffix == ".log":
            continue
        status = path.lstat()
        found[str(path)] = (0, 0) if path == store else (status.st_size, status.st_mtime_ns)
    return found


def attack(server: Served, seed: int, count: int) -> Counter[int]:
    """Send pipelined and mutated requests, about half of each; return how often each status came."""
    chance = random.Random(seed)
    seen: Counter[int] = Counter()
    sent = 0
    while sent < count:
        batch = [some_request(chance) for _ in range(min(40, count - sent))]
        sent += len(batch)
        while batch:
            seen.update(pipelined(server.url, batch))
        raws = [mutated(chance, some_request(chance)[1]) for _ in range(min(40, count - sent))]
        sent += len(raws)
        for raw, got in zip(raws, statuses(server.url, raws), strict=True):
            told = "" if set(got) <= FINE else server.log.read_text()[-3000:]
            assert set(got) <= FINE, (got, raw[:300], told)
            seen.update(got)
    return seen


@pytest.mark.parametrize("count", [1000, pytest.param(96_000, marks=pytest.mark.slow)])
def test_attack_on_the_wire(tmp_path: Path, count: int) -> None:
    store = tmp_path / "within" / "store"
    store.parent.mkdir()
    (tmp_path / "escaped").write_text("not yours")
    prepare(store)
    voxels = f"/api/node/{ROOT}/gray/raw/0_1_2/32_32_32/0_0_0"
    limits = {"DVIDZARR_LIMITS_MAX_RESPONSE_BYTES": str(16 * MIB), "DVIDZARR_COMPUTE_THREADS": "4"}
    with served(store, **limits) as server:
        before = outside(store)
        seen = attack(server, 1, count // 4)
        memory = server.resident
        for seed in (2, 3, 4):
            seen += attack(server, seed, count // 4)
        assert not {status for status in seen if status >= 500} - {503}, seen
        assert set(seen) >= {200, 307, 400, 404}, seen
        assert seen.total() > count * 3 // 4, seen
        assert httpx.get(server.url + voxels).content == bytes([7]) * 32**3
        assert server.resident < memory + 64 * MIB
        assert server.process.poll() is None
        log = server.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
    assert outside(store) == before
