"""How much of a JSON body is read: of some only the first value, of others all (spec-server §2.3, §4)."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import dvidzarr
from tests.integration.server_stub import client


@pytest.fixture
def http(tmp_path: Path) -> Iterator[httpx.Client]:
    with dvidzarr.open(tmp_path / "store", "w") as catalog, client(catalog) as http:
        yield http


@pytest.fixture
def root(http: httpx.Client) -> str:
    found = str(http.post("/api/repos", content=b'{"alias": "first"} {"alias": "second"}').json()["root"])
    for kind in ("keyvalue", "labelblk"):
        body = b'{"typename": "%s", "dataname": "%s"} x' % (kind.encode(), kind[:1].encode())
        assert http.post(f"/api/repo/{found}/instance", content=body).status_code == 200
    return found


FIRST = {
    "repo/{root}/info": b'{"description": "d"}',
    "repo/{root}/log": b'{"log": ["a"]}',
    "node/{root}/note": b'{"note": "n"}',
    "node/{root}/log": b'{"log": ["b"]}',
    "node/{root}/k/tags": b'{"t": "v"}',
    "node/{root}/l/sync": b'{"sync": ""}',
    "server/settings": b'{"gc": "100"}',
}
WHOLE = {
    "node/{root}/commit": b"{}",
    "node/{root}/newversion": b"{}",
    "node/{root}/branch": b'{"branch": "b"}',
    "node/{root}/tag": b'{"tag": "t"}',
    "repo/{root}/merge": b'{"mergeType": "conflict-free", "parents": ["a", "b"]}',
    "node/{root}/l/resolution": b"[4, 4, 4]",
}


@pytest.mark.parametrize("path", FIRST)
def test_what_follows_the_first_value_is_not_looked_at(http: httpx.Client, root: str, path: str) -> None:
    for tail in (b"x", b"\n{", b" [1]"):
        answer = http.post(f"/api/{path.format(root=root)}", content=FIRST[path] + tail)
        assert answer.status_code == 200, answer.text
        assert http.post(f"/api/{path.format(root=root)}", content=FIRST[path][:-1]).status_code == 400
    repo = http.get(f"/api/repo/{root}/info").json()
    assert repo["Alias"] == "first"
    shown = {
        "info": repo["Description"] == "d",
        "log": repo["Log"][-1].endswith("  a") or http.get(f"/api/node/{root}/log").text.count("  b") == 3,
        "note": http.get(f"/api/node/{root}/note").json() == {"note": "n"},
        "tags": http.get(f"/api/node/{root}/k/tags").json() == {"Tags": {"t": "v"}},
    }
    assert shown.get(path.rpartition("/")[2], True)


@pytest.mark.parametrize("path", WHOLE)
def test_the_other_bodies_are_json_as_a_whole(http: httpx.Client, root: str, path: str) -> None:
    answer = http.post(f"/api/{path.format(root=root)}", content=WHOLE[path] + b"x")
    assert (answer.status_code, http.get(f"/api/node/{root}/status").text) == (400, '{"Locked":false}')
