"""Extents over HTTP: what a version shows of its own, and what of others (spec-voxels §4.3, §7.1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.server.app import running


@contextmanager
def serving(store: Path) -> Iterator[httpx.Client]:
    with (
        dvidzarr.open(store) as catalog,
        running(catalog, Settings()) as address,
        httpx.Client(base_url=address, timeout=120) as client,
    ):
        yield client


def make(client: httpx.Client, typename: str) -> str:
    """Create the instance `v` in a fresh repo; return the root version."""
    root: str = client.post("/api/repos", json={}).json()["root"]
    body = {"typename": typename, "dataname": "v", "BlockSize": "8,8,8"}
    client.post(f"/api/repo/{root}/instance", json=body).raise_for_status()
    return root


def branches(client: httpx.Client, root: str) -> tuple[str, ...]:
    """Lock a version; return three children of it."""
    client.post(f"/api/node/{root}/commit", json={}).raise_for_status()
    asked = [("newversion", {}), ("branch", {"branch": "b"}), ("branch", {"branch": "c"})]
    answers = [client.post(f"/api/node/{root}/{action}", json=body) for action, body in asked]
    return tuple(answer.json()["child"] for answer in answers)


def write(client: httpx.Client, uuid: str, offset: str, typename: str) -> None:
    body = bytes(512 * (8 if typename == "labelblk" else 1))
    client.post(f"/api/node/{uuid}/v/raw/0_1_2/8_8_8/{offset}", content=body).raise_for_status()


def extended(client: httpx.Client, uuid: str) -> tuple[list[int], list[int]]:
    found = client.get(f"/api/node/{uuid}/v/info").json()["Extended"]
    return found["MinPoint"], found["MaxPoint"]


@pytest.mark.parametrize("typename", ["uint8blk", "labelblk"])
def test_an_empty_sibling_shows_what_was_last_grown(tmp_path: Path, typename: str) -> None:
    with serving(tmp_path / "store") as client:
        a, b, c = branches(client, make(client, typename))
        write(client, a, "0_0_0", typename)
        assert extended(client, c) == ([0, 0, 0], [7, 7, 7])
        write(client, b, "8_8_8", typename)
        write(client, a, "0_0_0", typename)  # grows nothing
        assert extended(client, c) == ([8, 8, 8], [15, 15, 15])
    with serving(tmp_path / "store") as client:  # of a snapshot or of the log
        assert extended(client, c) == ([8, 8, 8], [15, 15, 15])
        write(client, b, "8_8_8", typename)
        write(client, a, "16_0_0", typename)
        assert extended(client, c) == ([0, 0, 0], [23, 7, 7])


def test_an_inherited_box_is_not_grown_by_what_it_holds(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as client:
        root = make(client, "labelblk")
        write(client, root, "0_0_0", "labelblk")
        write(client, root, "8_8_8", "labelblk")
        a, b, c = branches(client, root)
        write(client, b, "16_0_0", "labelblk")
        write(client, a, "8_0_0", "labelblk")
        assert extended(client, c) == ([0, 0, 0], [23, 15, 15])


def test_replayed_extents_are_those_that_were_shown(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with serving(store) as client:
        a, b, c = branches(client, make(client, "uint8blk"))
        write(client, a, "0_0_0", "uint8blk")
        write(client, b, "8_8_8", "uint8blk")
        write(client, a, "0_0_0", "uint8blk")
        with dvidzarr.open(store, mode="r") as follower:  # reads the log, not the writer's memory
            view = follower.resolve(c)[0].instance("v").at(c)
            assert view.extents.start == (8, 8, 8)


@pytest.mark.parametrize("body", [b"null", b"{}"])
def test_extents_of_no_members_are_zero(tmp_path: Path, body: bytes) -> None:
    with serving(tmp_path / "store") as client:
        root = make(client, "uint8blk")
        write(client, root, "8_8_8", "uint8blk")
        answer = client.post(f"/api/node/{root}/v/extents", content=body)
        assert (answer.status_code, answer.content) == (200, b"")
        assert extended(client, root) == ([0, 0, 0], [0, 0, 0])


def merged(client: httpx.Client, *parents: str) -> str:
    """Lock versions and merge them; return the merged one."""
    for parent in parents:
        client.post(f"/api/node/{parent}/commit", json={}).raise_for_status()
    body = {"mergeType": "conflict-free", "parents": parents}
    child: str = client.post(f"/api/repo/{parents[0]}/merge", json=body).raise_for_status().json()["child"]
    return child


@pytest.mark.parametrize("grower", [0, 1])
def test_a_merge_shows_the_extents_of_the_line_that_grew_them(tmp_path: Path, grower: int) -> None:
    with serving(tmp_path / "store") as client:
        root = make(client, "uint8blk")
        write(client, root, "8_8_8", "uint8blk")
        a, b, other = branches(client, root)
        write(client, (a, b)[grower], "16_8_8", "uint8blk")
        write(client, (a, b)[1 - grower], "8_8_8", "uint8blk")  # grows nothing
        write(client, other, "0_0_0", "uint8blk")
        merge = merged(client, a, b)
        assert extended(client, merge) == ([8, 8, 8], [23, 15, 15])
    with serving(tmp_path / "store") as client:
        write(client, merge, "8_8_16", "uint8blk")
        assert extended(client, merge) == ([8, 8, 8], [23, 15, 23])


def test_a_merge_of_lines_with_different_extents_shows_what_was_last_grown(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as client:
        a, b, c = branches(client, make(client, "uint8blk"))
        write(client, a, "0_0_0", "uint8blk")
        write(client, b, "8_8_8", "uint8blk")
        merge = merged(client, a, b)
        assert extended(client, merge) == ([8, 8, 8], [15, 15, 15])
        write(client, c, "32_0_0", "uint8blk")
        assert extended(client, merge) == ([32, 0, 0], [39, 7, 7])
        write(client, merge, "0_0_0", "uint8blk")
        assert extended(client, merge) == ([0, 0, 0], [7, 7, 7])


@pytest.mark.parametrize("first", [0, 1])
def test_resolving_a_merge_takes_the_extents_of_the_first_parent(tmp_path: Path, first: int) -> None:
    with serving(tmp_path / "store") as client:
        a, b, _ = branches(client, make(client, "uint8blk"))
        for uuid, offset in ((a, "0_0_0"), (b, "8_8_8")):
            write(client, uuid, offset, "uint8blk")
            client.post(f"/api/node/{uuid}/commit", json={}).raise_for_status()
        body = {"data": ["v"], "parents": [(a, b)[first], (a, b)[1 - first]]}
        merge = client.post(f"/api/repo/{a}/resolve", json=body).raise_for_status().json()["child"]
        corner = 8 * first
        assert extended(client, merge) == ([corner] * 3, [corner + 7] * 3)
