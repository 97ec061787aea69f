"""What a reader sees of a repo that another process, or another thread, makes at that moment."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dvidzarr
from dvidzarr.core.ids import Author
from dvidzarr.repo.base import RepoBase
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.repo import Repo
from dvidzarr.storage.frames import Kind
from dvidzarr.storage.local import LocalBackend


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Catalog]:
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        yield catalog


def test_a_repo_that_is_completed_while_it_is_opened_is_not_broken(
    writer: Catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its log is read before the first record is there, and its instances are looked for after the last one."""
    append, folders = RepoBase.append, LocalBackend.folders
    is_begun, go_on = threading.Event(), threading.Event()

    def late(repo: RepoBase, kind: Kind, author: Author, header: dict[str, Any]) -> None:
        if not is_begun.is_set():
            (Path(writer.url) / repo.prefix / "log").mkdir(parents=True, exist_ok=True)
            is_begun.set()
            assert go_on.wait(60)
        append(repo, kind, author, header)

    def make() -> None:
        _ = writer.create_repo("new").create_instance("keyvalue", "keys").dataset

    maker = threading.Thread(target=make)

    def complete_then(backend: LocalBackend, prefix: str) -> list[str]:
        if prefix.endswith("/data"):
            go_on.set()
            maker.join(60)
        return folders(backend, prefix)

    monkeypatch.setattr(RepoBase, "append", late)
    maker.start()
    assert is_begun.wait(60)
    monkeypatch.setattr(LocalBackend, "folders", complete_then)
    with dvidzarr.open(writer.url, "r") as follower:
        maker.join(60)
        assert follower.broken == {}
        assert [list(repo.instances) for repo in follower.repos] == [["keys"]]
    assert "cannot be opened" not in caplog.text


def test_repos_are_listed_while_another_thread_makes_one(
    writer: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.create_repo("first")
    monkeypatch.setattr(Repo, "exists", property(lambda _: writer.create_repo("more") is not None))
    assert [repo.alias for repo in writer.repos] == ["first"]
