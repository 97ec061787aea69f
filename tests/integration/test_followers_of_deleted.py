"""What a reader is told of an instance or a repo that another process deletes: that it is gone, never zeros or damage."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import DvidzarrError, NotFoundError
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage.dataset import Dataset
from dvidzarr.storage.documents import Documents
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.openfiles import SharedWord

EDGE = 32
LONG = b"a value that the index does not hold itself" * 100
LONGER = LONG * 100


@pytest.fixture(params=["full", "fast"])
def writer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Catalog]:
    settings = Settings.load(env={}, overrides={"storage.durability": request.param})
    with dvidzarr.open(tmp_path / "store", "w", settings) as catalog:
        repo: Any = catalog.create_repo("doomed")
        gray = repo.create_instance("uint8blk", "gray")
        gray.at()[0:EDGE, 0:EDGE, 0:EDGE] = 7
        keys = repo.create_instance("keyvalue", "keys").at()
        keys["short"], keys["long"], keys["longer"] = b"short", LONG, LONGER
        repo.create_instance("roi", "roi").at().replace(np.array([[0, 0, 0, 3]]))
        yield catalog


@pytest.fixture
def follower(writer: Catalog) -> Iterator[Catalog]:
    with dvidzarr.open(writer.url, "r") as catalog:
        yield catalog


READS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "voxels": ("gray", lambda view: view[0:EDGE, 0:EDGE, 0:EDGE]),
    "list": ("keys", list),
    "long": ("keys", lambda view: view["long"]),
    "longer": ("keys", lambda view: view["longer"]),
    "roi": ("roi", lambda view: view.resolve()),
}


@pytest.mark.parametrize("is_repo", [False, True])
@pytest.mark.parametrize("what", READS)
def test_what_was_deleted_before_it_was_opened_is_not_empty(
    writer: Catalog, follower: Catalog, what: str, is_repo: bool
) -> None:
    name, read = READS[what]
    view = follower.repos[0].instance(name).at()
    repo = writer.repos[0]
    writer.delete_repo(repo.root) if is_repo else repo.delete_instance(name)
    with pytest.raises(NotFoundError):
        read(view)


@pytest.mark.parametrize("is_repo", [False, True])
@pytest.mark.parametrize("what", ["voxels", "long", "longer"])
def test_what_was_deleted_while_it_was_open_is_not_damaged(
    writer: Catalog, follower: Catalog, what: str, is_repo: bool
) -> None:
    name, read = READS[what]
    view = follower.repos[0].instance(name).at()
    _ = view.instance.dataset
    repo = writer.repos[0]
    writer.delete_repo(repo.root) if is_repo else repo.delete_instance(name)
    with pytest.raises(NotFoundError):
        read(view)


@pytest.mark.parametrize("is_repo", [False, True])
def test_what_was_written_and_deleted_before_anybody_looked_is_not_damaged(
    writer: Catalog, follower: Catalog, is_repo: bool
) -> None:
    view: Any = follower.repos[0].instance("keys").at()
    assert view["short"] == b"short"
    repo: Any = writer.repos[0]
    repo.instance("keys").at()["short"] = b"changed"
    writer.delete_repo(repo.root) if is_repo else repo.delete_instance("keys")
    with pytest.raises(NotFoundError):
        _ = view["short"]
    assert follower.broken == {}


def test_an_instance_whose_log_left_while_it_was_opened_is_not_damaged(
    writer: Catalog, follower: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    view: Any = follower.repos[0].instance("gray").at()
    look = LocalBackend.shared_word

    def delete_then(backend: LocalBackend, key: str, *, writable: bool) -> SharedWord:
        word = look(backend, key, writable=writable)
        monkeypatch.setattr(LocalBackend, "shared_word", look)
        writer.repos[0].delete_instance("gray")
        return word

    monkeypatch.setattr(LocalBackend, "shared_word", delete_then)
    with pytest.raises(NotFoundError):
        _ = view[0:EDGE, 0:EDGE, 0:EDGE]


def test_a_repo_whose_log_left_while_it_was_opened_is_not_broken(
    writer: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes between the look at how many records there are, and the look at them."""
    doomed = writer.repos[0]
    writer.create_repo("kept")
    look = LocalBackend.shared_word

    def delete_then(backend: LocalBackend, key: str, *, writable: bool) -> SharedWord:
        word = look(backend, key, writable=writable)
        if key == f"{doomed.prefix}/log/applied":
            monkeypatch.setattr(LocalBackend, "shared_word", look)
            writer.delete_repo(doomed.root)
        return word

    monkeypatch.setattr(LocalBackend, "shared_word", delete_then)
    with dvidzarr.open(writer.url, "r") as late:
        assert late.broken == {}
        assert [repo.alias for repo in late.repos] == ["kept"]


@pytest.mark.parametrize("is_repo", [False, True])
def test_files_of_what_was_deleted_are_closed(writer: Catalog, follower: Catalog, is_repo: bool) -> None:
    """A server that follows for months would hold thousands of them, and their indexes in memory."""
    instances = list(follower.repos[0].instances.values())
    datasets = [instance.dataset for instance in instances]
    repo = writer.repos[0]
    if is_repo:
        writer.delete_repo(repo.root)
    else:
        for name in list(repo.instances):
            repo.delete_instance(name)
    follower.catch_up()
    assert [instance.opened for instance in instances] == [False] * 3
    assert [dataset.log.refusal is None for dataset in datasets] == [False] * 3


@pytest.mark.parametrize("what", ["list", "long"])
def test_keys_that_are_closed_before_they_are_looked_up_are_gone(
    writer: Catalog, follower: Catalog, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread of the reader saw the deletion first."""
    name, read = READS[what]
    view = follower.repos[0].instance(name).at()
    _ = view.instance.dataset
    documents = Dataset.documents

    def close_then(dataset: Dataset) -> Documents:
        monkeypatch.setattr(Dataset, "documents", documents)
        writer.repos[0].delete_instance(name)
        follower.catch_up()
        return dataset.documents

    monkeypatch.setattr(Dataset, "documents", property(close_then))
    with pytest.raises(NotFoundError):
        read(view)


@pytest.mark.parametrize("who", ["writer", "follower"])
def test_a_look_at_keys_that_a_deletion_interrupts_is_told_so(
    writer: Catalog, follower: Catalog, who: str
) -> None:
    """With more keys than are looked up at a time."""
    keys: Any = writer.repos[0].instance("keys").at()
    keys.update({f"{number}": b"1" for number in range(3000)})
    catalog = writer if who == "writer" else follower
    view: Any = catalog.repos[0].instance("keys").at()
    places = view.places()
    for _ in range(2000):
        next(places)
    writer.repos[0].delete_instance("keys")
    follower.catch_up()
    with pytest.raises(DvidzarrError):
        next(places)


def test_a_deletion_does_not_keep_a_reader_from_the_others(
    writer: Catalog, follower: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when the reader has seen which instances there are, and reads on in each."""
    repo: Any = writer.repos[0]
    other: Any = repo.create_instance("keyvalue", "other").at()
    keys = repo.instance("keys").at()
    for each in follower.repos[0].instances.values():
        _ = each.dataset
    refresh = Catalog.refresh

    def write_behind(catalog: Catalog) -> None:
        refresh(catalog)
        if catalog is follower:
            monkeypatch.setattr(Catalog, "refresh", refresh)
            keys["more"] = other["more"] = b"1"
            repo.delete_instance("keys")

    monkeypatch.setattr(Catalog, "refresh", write_behind)
    follower.catch_up()
    seen = follower.repos[0].instance("other")
    assert seen.current
