"""What merges and resolutions are refused for, and branches that merges leave without one leaf (spec-server §3.3, §4.4)."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.server.app import running


class Versions:
    """A repo whose root has the locked children a, on master, and b, on a branch; both wrote the key of `kv`."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.root = str(http.post("/api/repos", json={}).json()["root"])
        for name in ("kv", "kv2"):
            body = {"typename": "keyvalue", "dataname": name}
            http.post(f"/api/repo/{self.root}/instance", json=body).raise_for_status()
        self.lock(self.root)
        self.a = str(http.post(f"/api/node/{self.root}/newversion").json()["child"])
        self.b = str(http.post(f"/api/node/{self.root}/branch", json={"branch": "b"}).json()["child"])
        for version in (self.a, self.b):
            http.post(f"/api/node/{version}/kv/key/k", content=version).raise_for_status()
            self.lock(version)

    def lock(self, version: str) -> None:
        self.http.post(f"/api/node/{version}/commit", json={}).raise_for_status()

    def resolve(self, data: list[str], *parents: str) -> httpx.Response:
        body = {"data": data, "parents": parents}
        return self.http.post(f"/api/repo/{self.root}/resolve", json=body)

    def merge(self, *parents: str) -> str:
        body = {"mergeType": "conflict-free", "parents": parents}
        answer = self.http.post(f"/api/repo/{self.root}/merge", json=body)
        answer.raise_for_status()
        return str(answer.json()["child"])

    def branches(self) -> list[str]:
        nodes = self.http.get(f"/api/repo/{self.root}/info").json()["DAG"]["Nodes"]
        return sorted(node["Branch"] for node in nodes.values())


@pytest.fixture
def versions(tmp_path: Path) -> Iterator[Versions]:
    with (
        dvidzarr.open(tmp_path / "store") as catalog,
        running(catalog, Settings()) as url,
        httpx.Client(base_url=url, timeout=120) as http,
    ):
        yield Versions(http)


def test_only_losers_need_a_branch(versions: Versions) -> None:
    first = versions.resolve(["kv"], versions.a, versions.b).json()["child"]
    assert versions.http.get(f"/api/node/{first}/kv/key/k").text == versions.a
    assert versions.resolve(["kv2"], versions.a, versions.b).status_code == 200
    other = versions.resolve(["kv"], versions.b, versions.a).json()["child"]
    assert versions.http.get(f"/api/node/{other}/kv/key/k").text == versions.b
    assert versions.branches().count(f"conflict-{versions.a}") == 1
    assert versions.branches().count(f"conflict-{versions.b}") == 1


def test_a_parent_may_lose_again(versions: Versions) -> None:
    """So it does after a crash in the middle of resolving, too, which leaves the branch behind."""
    third = versions.http.post(f"/api/node/{versions.root}/branch", json={"branch": "c"}).json()["child"]
    versions.http.post(f"/api/node/{third}/kv/key/k", content=b"third").raise_for_status()
    versions.lock(third)
    body = {"branch": f"conflict-{third}"}
    versions.http.post(f"/api/node/{versions.a}/branch", json=body).raise_for_status()
    for number, winner in enumerate((versions.a, versions.b), start=2):
        child = versions.resolve(["kv"], winner, third).json()["child"]
        assert versions.http.get(f"/api/node/{child}/kv/key/k").text == winner
        assert versions.branches().count(f"conflict-{third}-{number}") == 1


def test_unlocked_parents_are_refused_without_a_conflict(versions: Versions) -> None:
    child = versions.http.post(f"/api/node/{versions.a}/newversion").json()["child"]
    before = versions.branches()
    answer = versions.resolve(["kv2"], versions.b, child)
    assert (answer.status_code, "can't branch an unlocked node" in answer.text) == (400, True)
    assert versions.branches() == before


def test_a_branch_without_one_leaf_has_no_list(versions: Versions) -> None:
    http, root = versions.http, versions.root
    side = http.get(f"/api/repo/{root}/branch-versions/b").json()
    merged = versions.merge(root, versions.b)
    for place in (f"/api/repo/{root}/branch-versions/master", f"/api/node/{root}:master~1/note"):
        answer = http.get(place)
        assert (answer.status_code, 'branch "master" has more than 1 child' in answer.text) == (400, True)
        assert versions.a in answer.text
        assert merged in answer.text
    assert http.get(f"/api/repo/{root}/branch-versions/b").json() == side
    assert http.get(f"/api/node/{root}:master/note").status_code == 200


def test_a_merge_of_other_branches_leaves_master_its_leaf(versions: Versions) -> None:
    merged = versions.merge(versions.b, versions.a)
    listed = versions.http.get(f"/api/repo/{versions.root}/branch-versions/master").json()
    assert listed == [merged, versions.b, versions.a, versions.root]
