"""What the Python API raises is what its docstrings say."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import (
    BusyError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    TooLargeError,
    VersionLockedError,
)
from dvidzarr.core.geometry import Box
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.repo import Repo
from dvidzarr.repo.subscriptions import subscribe

ROOT = "a" * 32


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """Make a store with a locked root and an open child of it."""
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.create_repo("errors", root=ROOT)
        repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"})
        repo.create_instance("keyvalue", "notes")
        repo.new_version(repo.commit(ROOT), uuid="b" * 32)
        yield catalog


@pytest.mark.parametrize("root", ["", "a/b", "a:b", "a~b", "a\0b", "x" * 129])
def test_what_is_no_uuid_of_a_repo_is_refused(catalog: Catalog, root: str) -> None:
    with pytest.raises(InvalidInputError, match="1 to 128 characters without '/', ':', '~' or NUL"):
        catalog.create_repo(root=root)
    assert len(catalog.repos) == 1


REFUSED: dict[str, tuple[type[Exception], Callable[[Repo], object]]] = {
    "a repo of that UUID": (ConflictError, lambda repo: repo.catalog.create_repo(root=ROOT)),
    "a wrong passcode": (ForbiddenError, lambda repo: repo.catalog.delete_repo(ROOT, "x")),
    "no such version": (NotFoundError, lambda repo: repo.catalog.resolve("c")),
    "no reference": (InvalidInputError, lambda repo: repo.catalog.resolve("a:b:c")),
    "no such instance": (NotFoundError, lambda repo: repo.instance("x")),
    "commit of a locked version": (VersionLockedError, lambda repo: repo.commit(ROOT)),
    "child of an open version": (ConflictError, lambda repo: repo.new_version("b")),
    "second child": (ConflictError, lambda repo: repo.new_version("a")),
    "child of none": (NotFoundError, lambda repo: repo.new_version("c")),
    "child without UUID": (InvalidInputError, lambda repo: repo.new_version("a", uuid="x")),
    "branch master": (InvalidInputError, lambda repo: repo.branch("a", "master")),
    "branch of a taken UUID": (ConflictError, lambda repo: repo.branch("a", "side", uuid="b" * 32)),
    "branch of an open version": (ConflictError, lambda repo: repo.branch("b", "side")),
    "tag": (InvalidInputError, lambda repo: repo.tag("a", "x/y")),
    "merge of one": (InvalidInputError, lambda repo: repo.merge(["a"])),
    "merge of one twice": (InvalidInputError, lambda repo: repo.merge(["a", "a"])),
    "merge of open versions": (ConflictError, lambda repo: repo.merge(["a", "b"])),
    "conflicts of one": (InvalidInputError, lambda repo: repo.conflicts(["a"])),
    "note of a locked version": (VersionLockedError, lambda repo: repo.set_note("a", "x")),
    "unknown type": (InvalidInputError, lambda repo: repo.create_instance("x", "y")),
    "wrong setting": (
        InvalidInputError,
        lambda repo: repo.create_instance("uint8blk", "y", {"BlockSize": "0,1,1"}),
    ),
    "wrong name": (InvalidInputError, lambda repo: repo.create_instance("uint8blk", "a/b")),
    "taken name": (ConflictError, lambda repo: repo.create_instance("uint8blk", "gray")),
    "instance at a locked version": (
        VersionLockedError,
        lambda repo: repo.create_instance("uint8blk", "y", version="a"),
    ),
    "rename to a taken name": (ConflictError, lambda repo: repo.rename_instance("gray", "notes")),
    "rename to no name": (InvalidInputError, lambda repo: repo.rename_instance("gray", "")),
    "rename of none": (NotFoundError, lambda repo: repo.rename_instance("x", "y")),
    "delete of none": (NotFoundError, lambda repo: repo.delete_instance("x")),
    "view at no version": (NotFoundError, lambda repo: repo.instance("gray").at("c")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_repo_cannot_do(catalog: Catalog, name: str) -> None:
    error, action = REFUSED[name]
    before = sum(1 for _ in catalog.repos[0].records())
    with pytest.raises(error):
        action(catalog.repos[0])
    assert sum(1 for _ in catalog.repos[0].records()) == before, "nothing was changed"


NO_TEXT = (3, None, b"a", ["a"], 2.5, ("a",), {"a": 1})
TAKE_TEXT: dict[str, Callable[[Repo, Any], object]] = {
    "catalog.resolve": lambda repo, value: repo.catalog.resolve(value),
    "catalog.repo": lambda repo, value: repo.catalog.repo(value),
    "catalog.datatype": lambda repo, value: repo.catalog.datatype(value),
    "catalog.delete_repo": lambda repo, value: repo.catalog.delete_repo(value),
    "catalog.create_repo": lambda repo, value: repo.catalog.create_repo(alias=value),
    "repo.version": lambda repo, value: repo.version(value),
    "repo.instance": lambda repo, value: repo.instance(value),
    "repo.commit": lambda repo, value: repo.commit(value),
    "repo.commit, lines": lambda repo, value: repo.commit("b", log=[value]),
    "repo.commit, note": lambda repo, value: repo.commit("b", note=value),
    "repo.new_version": lambda repo, value: repo.new_version(value),
    "repo.branch": lambda repo, value: repo.branch("a", value),
    "repo.branch, UUID": lambda repo, value: repo.branch("a", "side", uuid=value or 0),
    "repo.branch_versions": lambda repo, value: repo.branch_versions(value),
    "repo.tag": lambda repo, value: repo.tag("a", value),
    "repo.merge": lambda repo, value: repo.merge(["a", value]),
    "repo.set_note": lambda repo, value: repo.set_note("b", value),
    "repo.append_log": lambda repo, value: repo.append_log([value]),
    "repo.create_instance, type": lambda repo, value: repo.create_instance(value, "y"),
    "repo.create_instance, name": lambda repo, value: repo.create_instance("roi", value),
    "repo.rename_instance": lambda repo, value: repo.rename_instance("gray", value),
    "repo.delete_instance": lambda repo, value: repo.delete_instance(value),
    "instance.at": lambda repo, value: repo.instance("gray").at(0 if value is None else value),
}


@pytest.mark.parametrize("name", TAKE_TEXT)
def test_what_is_no_text_is_refused_where_one_is_meant(catalog: Catalog, tmp_path: Path, name: str) -> None:
    """Also where it would be recorded: a branch that was a tuple made the repo unreadable for ever."""
    repo = catalog.repos[0]
    before = sum(1 for _ in repo.records())
    for value in NO_TEXT:
        with pytest.raises(InvalidInputError, match="is a text, not"):
            TAKE_TEXT[name](repo, value)
    assert sum(1 for _ in repo.records()) == before, "nothing was changed"
    with dvidzarr.open(tmp_path / "store", "r") as again:
        assert len(again.repos) == 1


@pytest.mark.parametrize("given", ["ab", 3, None])
def test_what_is_no_list_is_refused_where_one_is_meant(catalog: Catalog, given: object) -> None:
    """The characters of one text are nobody's parents, nor lines of a log."""
    repo, value = catalog.repos[0], cast("Any", given)
    for action in (
        lambda: repo.merge(value),
        lambda: repo.conflicts(value),
        lambda: repo.resolve_merge(["a", "b"], value),
        lambda: repo.append_log(value),
        lambda: repo.append_version_log("b", value),
        lambda: repo.commit("b", log=value),
    ):
        with pytest.raises(InvalidInputError, match=r"are a list, not (str|int|NoneType): (ab|3|None)"):
            action()


def test_settings_are_a_mapping_of_texts(catalog: Catalog) -> None:
    settings: Any
    for settings in ("BlockSize", ["BlockSize"], 3, {3: "4,4,4"}, {None: "x"}):
        with pytest.raises(InvalidInputError, match=r"settings are a mapping, not|setting is a text, not"):
            catalog.repos[0].create_instance("uint8blk", "y", settings)


def test_tags_are_texts_and_syncs_a_list(catalog: Catalog) -> None:
    repo = catalog.repos[0]
    gray, labels = repo.instance("gray"), cast("Any", repo.create_instance("labelblk", "labels"))
    tags: Any
    for tags in ({"a": 3}, {3: "a"}, {"a": None}, "ab", None, ["a"]):
        with pytest.raises(InvalidInputError, match=r"is a text, not|are a mapping, not"):
            gray.set_tags(tags)
    assert gray.tags is None
    for names in ("gray", None, 3, [3]):
        with pytest.raises(InvalidInputError, match=r"are a list, not|is a text, not"):
            labels.set_syncs(names)


def test_a_version_of_another_repo_is_none_of_this_one(catalog: Catalog) -> None:
    """It was taken for the one of the same number."""
    here, there = catalog.repo(ROOT), catalog.create_repo("other")
    for action in (
        lambda: here.version(there.dag.root),
        lambda: here.instance("gray").at(there.dag.root),
        lambda: here.new_version(there.dag.root),
        lambda: here.version(there.root),
    ):
        with pytest.raises(NotFoundError, match=f"{there.root}' is not one of repo {ROOT}"):
            action()


def test_a_version_that_a_reader_has_not_read_yet_is_looked_up(catalog: Catalog, tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store", "r") as reader:
        gray = reader.repos[0].instance("gray")
        made = catalog.repos[0].branch("a", "side")
        assert gray.at(made).version == made


def test_what_keys_and_values_cannot_be(catalog: Catalog) -> None:
    notes: Any = catalog.repos[0].instance("notes")
    view = notes.at()
    for key in ("", "a\0b", "x" * 65_537, "\ud800", b"a", 1, None):
        actions = (
            lambda key=key: view.put(key, b""),
            lambda key=key: view.update({key: b""}),
            lambda key=key: view.remove([key]),
            lambda key=key: view[key],
            lambda key=key: view.get_many([key]),
        )
        for action in actions:
            with pytest.raises(InvalidInputError):
                action()
    assert list(view) == list(view.range("", "\0")) == view.between("", "\0") == []
    with pytest.raises(KeyError):
        view.get_slice("missing", 0, 1)
    with pytest.raises(VersionLockedError):
        notes.at(ROOT).put("a", b"")
    with pytest.raises(VersionLockedError):
        notes.at(ROOT).remove(["a"])


@pytest.mark.parametrize("value", [5, "text", "", None, [1, 2], ["a"], 1.5, {"a": 1}])
def test_what_is_no_bytes_is_no_value(catalog: Catalog, value: object) -> None:
    notes: Any = catalog.repos[0].instance("notes")
    view = notes.at()
    for action in (
        lambda: view.put("a", value),
        lambda: view.update({"a": value}),
        lambda: view.update(b=b"kept out", a=value),
    ):
        with pytest.raises(InvalidInputError, match="a value is bytes, not"):
            action()
    assert list(view) == []


def test_what_volumes_cannot_do(catalog: Catalog) -> None:
    gray: Any = catalog.repos[0].instance("gray")
    view = gray.at()
    with pytest.raises(InvalidInputError, match="not positive"):
        view.read(Box((0, 0, 0), (0, 1, 1)))
    with pytest.raises(TooLargeError):
        view.read(Box((0, 0, 0), (1 << 14, 1 << 14, 1 << 14)))
    with pytest.raises(InvalidInputError):
        view.write(Box((0, 0, 0), (1, 1, 1)), np.zeros((1, 1, 2), np.uint8))
    with pytest.raises(VersionLockedError):
        gray.at(ROOT)[0:1, 0:1, 0:1] = 1
    with pytest.raises(InvalidInputError, match="finite"):
        gray.set_resolution([1.0, float("nan"), 1.0])
    with pytest.raises(NotFoundError):
        view.masked("x")
    masked = view.masked("notes")
    with pytest.raises(InvalidInputError, match="roi"):
        masked.read(Box((0, 0, 0), (1, 1, 1)))
    with pytest.raises(InvalidInputError, match="Zarr"):
        masked.array()


@pytest.mark.parametrize("box", [[0, 1], (slice(0, 1), slice(0, 1), slice(0, 1)), None, np.zeros(3)])
def test_what_is_no_box_is_refused_where_one_is_meant(catalog: Catalog, box: object) -> None:
    view: Any = catalog.repos[0].instance("gray").at()
    for action in (
        lambda: view.read(box),
        lambda: view.masked("notes").read(box),
        lambda: view.write(box, np.zeros((1, 1, 1), np.uint8)),
    ):
        with pytest.raises(InvalidInputError, match="a box is"):
            action()


def test_a_store_that_is_open_for_reading(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="mode"):
        dvidzarr.open(tmp_path / "store", "x")
    with dvidzarr.open(tmp_path / "store", "r") as reader:
        repo: Any = reader.repos[0]
        for action in (
            reader.create_repo,
            lambda: reader.delete_repo(ROOT),
            lambda: repo.create_instance("keyvalue", "y"),
            lambda: repo.instance("notes").at().put("a", b""),
            lambda: list(reader.verify(repair=True)),
        ):
            with pytest.raises(ForbiddenError):
                action()
        assert catalog.context.housekeeper.settle(120)
        before = {path for path in (tmp_path / "store").rglob("*") if "cache" not in path.parts}
        with pytest.raises(InvalidInputError, match="no name of a subscriber"):
            subscribe(reader, "a/b", print)
        with subscribe(reader, "index", lambda event: None) as running:
            assert running.caught_up(120)
            with pytest.raises(BusyError):
                subscribe(reader, "index", print)
        after = {path for path in (tmp_path / "store").rglob("*") if "cache" not in path.parts}
        assert {path.relative_to(tmp_path / "store").parts[0] for path in after - before} == {"subscribers"}
    with dvidzarr.open(tmp_path / "store") as other, pytest.raises(BusyError):
        other.create_repo()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "s3://bucket/store"])
def test_a_url_is_not_taken_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="is a URL"):
        dvidzarr.open(url)
    assert list(tmp_path.iterdir()) == []


def test_what_notebooks_show(catalog: Catalog) -> None:
    repo = catalog.repos[0]
    assert repr(repo) == f"<repo {ROOT} 'errors'>"
    assert repr(repo.instance("gray")) == f"<uint8blk 'gray' of repo {ROOT}>"
    assert repr(catalog) == f"<store {catalog.context.backend.root}>"
