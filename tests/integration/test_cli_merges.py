"""`conflicts`, `merge` and `resolve` on a path and on a URL."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dvidzarr
from tests.integration.cli_process import Shell

ROOT = "a" * 32


@pytest.fixture(params=["path", "url"])
def store(request: pytest.FixtureRequest, shell: Shell, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "store"
    with dvidzarr.open(folder) as catalog:
        repo = catalog.create_repo(root=ROOT)
        gray = repo.create_instance("uint8blk", "gray", {"BlockSize": "8,8,8"})
        notes: Any = repo.create_instance("keyvalue", "notes")
        gray.at()[0:8, 0:8, 0:8] = 9
        root = repo.commit(repo.root)
        for number, name in enumerate(("one", "two", "three"), 1):
            version = repo.branch(root, name)
            if name != "three":
                gray.at(version)[8:16, 0:8, 24:32] = number
                notes.at(version)["key"] = name.encode()
                notes.at(version)["same"] = b"same"
            repo.commit(version)
    if request.param == "path":
        yield str(folder)
    else:
        with shell.server(folder) as url:
            yield url


def refs(*names: str) -> list[str]:
    return [f"{ROOT[:4]}:{name}" for name in names]


def test_conflicts_are_counted_and_named(shell: Shell, store: str) -> None:
    outcome = shell.run("conflicts", store, *refs("one", "three", "two"))
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "gray: 1 block",
        "  block 3,0,1  1 | 3",
        "notes: 2 keys",
        "  key   1 | 3",
        "  same  1 | 3",
    ]
    assert "resolve --data gray --data notes would let" in outcome.err
    short = shell.ok("conflicts", store, *refs("one", "two"), "--places", 1).splitlines()
    assert short[2:] == ["notes: 2 keys", "  key  1 | 2", "  and 1 more"]
    report = json.loads(shell.ok("conflicts", store, *refs("one", "two"), "--json"))
    assert report["gray"]["Blocks"] == [{"Scale": 0, "Block": [3, 0, 1], "Parents": [[0], [1]]}]
    assert report["notes"]["KeyCount"] == 2
    none = shell.run("conflicts", store, *refs("one", "three"))
    assert (none.code, none.out, none.err.strip()) == (0, "", "no conflicts")


def test_a_conflict_of_an_earlier_merge_is_shown_as_one(shell: Shell, store: str) -> None:
    merged = shell.ok("merge", store, *refs("one", "two")).strip()
    shell.ok("commit", store, merged)
    lines = shell.ok("conflicts", store, *refs("three"), merged).splitlines()
    assert lines == [
        "gray: 1 block",
        "  block 3,0,1  - | 2",
        "notes: 2 keys",
        "  key   - | 2",
        "  same  - | 2",
    ]


def test_merge_and_resolve(shell: Shell, store: str, tmp_path: Path) -> None:
    merged = shell.ok("merge", store, *refs("one", "two"), "-m", "both")
    resolved = shell.ok(
        "resolve", store, *refs("two", "one"), "--data", "notes", "--data", "gray", "-m", "mine"
    )
    assert shell.ok("kv", "ls", store, f"{merged}/notes") == ""
    tree = shell.ok("repos", store)
    assert "merge of" in tree
    assert "“both”" in tree
    assert "“mine”" in tree
    with dvidzarr.open(tmp_path / "store", "r") as catalog:
        gray: Any = catalog.repos[0].instance("gray")
        shown = [int(gray.at(version)[8, 0, 24]) for version in (merged, resolved)]
        assert catalog.repos[0].instance("notes").at(resolved)["key"] == b"two"  # type: ignore[index]
    assert shown == [0, 2]


def test_refusals(shell: Shell, store: str) -> None:
    before = shell.ok("repos", store)
    assert "at least two" in shell.run("merge", store, *refs("one")).err
    assert "each once" in shell.fails("merge", store, *refs("one", "one"))
    assert "each once" in shell.fails("conflicts", store, *refs("one", "one"))
    assert "nothing" in shell.fails("conflicts", store, *refs("one", "nothing"))
    lacking = shell.fails("resolve", store, *refs("one", "two"), "--data", "other")
    assert "has no instance 'other'" in lacking
    assert shell.ok("repos", store) == before
    shell.ok("newversion", store, *refs("two"))
    for command in (["merge"], ["resolve", "--data", "gray"]):
        assert f"{refs('two')[0]} (version" in shell.fails(*command, store, *refs("one", "two"))
