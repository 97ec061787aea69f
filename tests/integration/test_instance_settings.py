"""What a new instance is told, and how repo log, `info` and `tags` show it (spec-server §5.3, §5.4)."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.server.app import running
from tests.integration import server_stub


def created(http: httpx.Client, **config: object) -> str:
    """Create a keyvalue instance in a new repo; return the root."""
    root = str(http.post("/api/repos", json={}).json()["root"])
    body = {"typename": "keyvalue", "dataname": "kv", **config}
    http.post(f"/api/repo/{root}/instance", json=body).raise_for_status()
    return root


@pytest.mark.parametrize("given", ["bad,=x", "", ",", "a=b=c"])
def test_tags_without_a_pair_are_no_tags_but_were_set(tmp_path: Path, given: str) -> None:
    for start in range(2):
        with (
            dvidzarr.open(tmp_path / "store") as catalog,
            running(catalog, Settings()) as url,
            httpx.Client(base_url=url, timeout=120) as http,
        ):
            if not start:
                root = created(http, Tags=given)
                never = created(http)
            assert http.get(f"/api/node/{root}/kv/tags").text == '{"Tags":{}}'
            assert http.get(f"/api/node/{root}/kv/info").json()["Base"]["Tags"] == {}
            assert http.get(f"/api/node/{never}/kv/tags").text == '{"Tags":null}'


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("settings") / "store"
    with dvidzarr.open(folder) as catalog, server_stub.client(catalog) as http:
        yield http


def test_the_jpeg_level_is_a_block_size(http: httpx.Client) -> None:
    root = created(http, Compression="jpeg")
    base = http.get(f"/api/node/{root}/kv/info").json()["Base"]
    assert base["Compression"] == "jpeg compression, level 32"
    for name, blocks, level in (("a", {}, 32), ("b", {"BlockSize": "64,32,16"}, 64)):
        body = {"typename": "uint8blk", "dataname": name, "Compression": "jpeg", **blocks}
        http.post(f"/api/repo/{root}/instance", json=body).raise_for_status()
        base = http.get(f"/api/node/{root}/{name}/info").json()["Base"]
        assert base["Compression"] == f"jpeg compression, level {level}"


def test_the_log_shows_settings_as_go_prints_them(http: httpx.Client) -> None:
    config = {"n": None, "list": [1, "a"], "map": {"k": 1}, "many": 1000000, "yes": True, "versioned": False}
    root = created(http, **config)
    (line,) = http.get(f"/api/repo/{root}/log").json()["log"]
    assert line.endswith(
        'New data instance "kv" of type "keyvalue" with config {map[dataname:kv list:[1 a] many:1e+06'
        " map:map[k:1] n:<nil> typename:keyvalue versioned:false yes:true]}"
    )


def test_messages_show_settings_as_go_prints_them(http: httpx.Client) -> None:
    root = created(http)
    body = {"typename": "keyvalue", "dataname": "x", "Checksum": None}
    answer = http.post(f"/api/repo/{root}/instance", json=body)
    assert (answer.status_code, "'Checksum' was not a string: <nil>" in answer.text) == (400, True)


@pytest.mark.parametrize("path", ["/nothing", "/", "/readyz", "/api/nothing"])
def test_options_beside_the_api(http: httpx.Client, path: str) -> None:
    answer = http.options(path)
    assert (answer.status_code, answer.headers["Allow"], answer.content) == (200, "GET, HEAD, OPTIONS", b"")
