"""Server, repo and node routes on a real store; what DVID answers is in the conformance cases."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import dvidzarr
from dvidzarr.repo.catalog import Catalog
from tests.integration.server_stub import client

PATIENCE_S = 120.0
LOG_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)"
SERVE = """
import sys, dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.server.app import serve
serve(dvidzarr.open(sys.argv[1], "w"), Settings(), "127.0.0.1", int(sys.argv[2]))
"""


@pytest.fixture
def http(catalog: Catalog) -> Iterator[httpx.Client]:
    with client(catalog) as http:
        yield http


@pytest.fixture
def root(http: httpx.Client) -> str:
    return str(http.post("/api/repos", json={"alias": "test"}).json()["root"])


def lock(http: httpx.Client, uuid: str) -> None:
    assert http.post(f"/api/node/{uuid}/commit", json={"note": "done"}).status_code == 200


def child(http: httpx.Client, uuid: str, action: str = "newversion", **body: str) -> str:
    return str(http.post(f"/api/node/{uuid}/{action}", json=body).json()["child"])


def test_empty_server(http: httpx.Client) -> None:
    assert http.get("/api/repos/info").content == b"{}"
    assert http.get("/api/server/types").content == b"{}"
    assert "uint8blk" in http.get("/api/server/compiled-types").json()
    assert "/api/help/uint8blk" in http.get("/api/help").text
    for name in http.get("/api/server/compiled-types").json():
        text = http.get(f"/api/help/{name}").text
        assert text.endswith("\n")
        assert text.isascii(), name  # DVID's type names no charset, and browsers then guess one
    assert http.get("/api/help/nosuch").status_code == 400


def test_the_interface_and_its_version(http: httpx.Client) -> None:
    version = http.get("/interface/version")
    assert (version.status_code, version.text, version.headers["Content-Type"]) == (200, "v1\n", "text/plain")
    interface = http.get("/interface")
    assert interface.headers["Content-Type"] == "application/raml+yaml"
    assert interface.text.startswith("#%RAML")
    assert http.head("/interface").content == b""
    assert http.post("/interface/version").status_code == 404
    assert http.get("/interface/versions").status_code == 404


def test_the_bare_address_leads_to_the_help(http: httpx.Client) -> None:
    for verb in ("GET", "HEAD"):
        answer = http.request(verb, "/", follow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (307, "/api/help")
    page = http.get("/", follow_redirects=True).text
    assert "<code>:master</code>" in page
    assert "`" not in page
    assert http.post("/").status_code == 404


def test_server_info_values_are_texts(http: httpx.Client) -> None:
    info = http.get("/api/server/info").json()
    assert all(isinstance(value, str) for value in info.values())
    assert list(info) == sorted(info)
    assert info["Datastore Version"] == "0.11.0"


def test_config_is_toml(http: httpx.Client) -> None:
    tomllib = pytest.importorskip("tomllib")
    assert tomllib.loads(http.get("/api/server/config").text)["server"]["cors_domains"] == ["*"]


def test_versions_from_root_to_merge(http: httpx.Client, root: str) -> None:
    lock(http, root)
    main = child(http, root, note="main work")
    side = child(http, root, "branch", branch="side")
    lock(http, main)
    lock(http, side)
    body = {"mergeType": "conflict-free", "parents": [main[:12], f"{root}:side"], "note": "both"}
    merged = http.post(f"/api/repo/{root}/merge", json=body).json()["child"]
    assert http.get(f"/api/repo/{main}/branch-versions/master").json() == [merged, main, side, root]
    nodes = http.get(f"/api/repo/{root}/info").json()["DAG"]["Nodes"]
    assert nodes[merged]["Parents"] == [nodes[main]["VersionID"], nodes[side]["VersionID"]]
    assert set(nodes[root]["Children"]) == {nodes[main]["VersionID"], nodes[side]["VersionID"]}
    assert http.get(f"/api/node/{root}:master/note").json() == {"note": "both"}


@pytest.mark.parametrize("parents", [[], ["{root}"], "x", ["{root}", "ffff"], ["{root}", "{root}"]])
def test_bad_merges(http: httpx.Client, root: str, parents: list[str] | str) -> None:
    lock(http, root)
    given = [parent.format(root=root) for parent in parents] if isinstance(parents, list) else parents
    answer = http.post(f"/api/repo/{root}/merge", json={"mergeType": "conflict-free", "parents": given})
    assert answer.status_code == 400
    assert len(http.get(f"/api/repo/{root}/info").json()["DAG"]["Nodes"]) == 1


def test_commit_needs_a_body_and_happens_once(http: httpx.Client, root: str) -> None:
    assert "unexpected end of JSON input" in http.post(f"/api/node/{root}/commit").text
    answer = http.post(f"/api/node/{root}/commit", content=b'{"NOTE": "n", "log": ["l"]}')
    assert answer.text == f'{{"committed": "{root}"}}'
    assert http.get(f"/api/node/{root}/note").text == '{"note":"n"}'
    assert re.fullmatch(LOG_TIME + "  l", http.get(f"/api/node/{root}/log").json()["log"][0])
    assert http.post(f"/api/node/{root}/commit", json={}).status_code == 400


def test_concurrent_children_of_one_branch(http: httpx.Client, root: str) -> None:
    lock(http, root)
    answers: list[int] = []

    def add() -> None:
        answers.append(httpx.post(f"{http.base_url}/api/node/{root}/newversion", timeout=120).status_code)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [400] * 7


def test_instances(http: httpx.Client, root: str) -> None:
    url = f"/api/repo/{root}/instance"
    answer = http.post(url, json={"TypeName": "uint8blk", "dataname": "gray", "BlockSize": "32,32,32"})
    assert answer.text == f'{{"result": "Added gray [uint8blk] to node {root}"}}'
    base = http.get(f"/api/repo/{root}/info").json()["DataInstances"]["gray"]["Base"]
    assert base["TypeURL"] == "github.com/janelia-flyem/dvid/datatype/imageblk/uint8.go"
    assert base["Compression"] == "LZ4 compression, level -1"
    assert base["RepoUUID"] == root
    assert http.get("/api/server/types").json() == {"uint8blk": base["TypeURL"]}
    assert http.post(f"{url}/gray/rename", json={"name": "commit"}).status_code == 400
    assert http.post(f"{url}/gray/rename", json={}).status_code == 400
    assert http.post(f"{url}/gray/rename", json={"name": "em"}).status_code == 200
    assert http.get(f"/api/node/{root}/gray/info").status_code == 400
    assert http.get(f"/api/node/{root}/em/info").status_code == 200
    assert http.delete(f"{url}/em").status_code == 400
    assert http.delete(f"{url}/em?imsure=true").status_code == 200
    assert http.get(f"/api/repo/{root}/info").json()["DataInstances"] == {}


def test_delete_repo(http: httpx.Client) -> None:
    root = http.post("/api/repos", json={"passcode": "foobar"}).json()["root"]
    assert http.delete(f"/api/repo/{root}?imsure=true").status_code == 404
    assert http.post(f"/api/repo/{root}/delete").status_code == 400
    assert http.post(f"/api/repo/{root}/delete?imsure=true").status_code == 400
    assert http.post(f"/api/repo/{root}/delete?imsure=true&passcode=foobar").status_code == 200
    assert http.get("/api/repos/info").json() == {}
    assert http.get(f"/api/node/{root}/status").status_code == 400


def test_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVID_ADMIN_TOKEN", "s3cret")
    with (
        dvidzarr.open(tmp_path / "store", "w") as catalog,
        client(catalog) as http,
    ):
        bearer = {"Authorization": "Bearer s3cret"}
        assert http.post("/api/repos").status_code == 400
        root = http.post("/api/repos", headers=bearer).json()["root"]
        instance = f"/api/repo/{root}/instance"
        assert http.post(instance, json={"typename": "uint8blk", "dataname": "g"}).status_code == 200
        assert http.post(f"{instance}/g/rename", json={"name": "h"}).status_code == 400
        assert http.delete(f"{instance}/g?imsure=true").status_code == 400
        assert http.post(f"/api/repo/{root}/delete?imsure=true").status_code == 400
        assert http.get("/api/server/config").status_code == 400
        lock(http, root)
        for headers in ({}, bearer):
            assert http.post(f"/api/node/{root}/note", json={"note": "x"}, headers=headers).status_code == 400
        assert http.post(f"/api/repo/{root}/info", json={"alias": "x"}, headers=bearer).status_code == 200


def test_sizes_that_cannot_be_are_refused(http: httpx.Client, root: str) -> None:
    http.post(f"/api/repo/{root}/instance", json={"typename": "uint8blk", "dataname": "gray"})
    raw = f"/api/node/{root}/gray/raw/0_1_2"
    before = resident()
    for size in ("100000_100000_100000", "0_1_1", "-1_1_1", "9223372036854775808_1_1", "9" * 5000 + "_1_1"):
        for verb in ("GET", "POST"):
            answer = http.request(verb, f"{raw}/{size}/0_0_0", content=b"" if verb == "POST" else None)
            assert answer.status_code in (400, 413), (verb, size, answer.text)
    assert resident() - before < 256 << 20  # the smallest of them would need a gigabyte
    assert http.get(f"{raw}/1_1_1/2147483648_0_0").status_code == 400


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_server_process_from_start_to_sigterm(tmp_path: Path, free_port: int) -> None:
    command = [sys.executable, "-c", SERVE, str(tmp_path / "store"), str(free_port)]
    started = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{free_port}") as http:
            while True:
                try:
                    assert http.get("/api/heartbeat").text == "OK"
                    break
                except httpx.ConnectError:
                    assert time.monotonic() - started < PATIENCE_S
                    time.sleep(0.01)
            root = http.post("/api/repos").json()["root"]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert '"path":"/api/repos"' in log
    assert "Traceback" not in log
    with dvidzarr.open(tmp_path / "store", "r") as catalog:
        assert [repo.root for repo in catalog.repos] == [root]


def test_a_taken_port_is_told(tmp_path: Path, http: httpx.Client) -> None:
    command = [sys.executable, "-c", SERVE, str(tmp_path / "other"), str(http.base_url.port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "BusyError: cannot listen on 127.0.0.1 port" in ended.stderr
