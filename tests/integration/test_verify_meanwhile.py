"""`verify` beside a writer: what moves while it looks is no damage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dvidzarr
from dvidzarr.core.ids import NO_AUTHOR
from dvidzarr.core.settings import Settings
from dvidzarr.repo import verify
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage.backend import in_turn
from dvidzarr.storage.chunks import ChunkStore
from dvidzarr.storage.repair import gaps
from dvidzarr.storage.writing import write_chunks

SETTINGS = Settings.load(env={}, overrides={"storage.rewrite_grace_s": 0})
EDGE = 32


def world(catalog: Catalog) -> Any:  # noqa: ANN401
    """Return a volume of two chunks, both of them written twice: they lie in a pack."""
    gray: Any = catalog.create_repo("moving").create_instance("uint8blk", "gray")
    for number in (1, 2):
        gray.at()[0:EDGE, 0:EDGE, 0 : 2 * EDGE] = number
    return gray


def delete(gray: Any) -> None:  # noqa: ANN401
    """Delete both chunks, as a program does that knows the storage."""
    with gray.at().writing() as dataset:
        header = {"m": gray.repo.next_mutation()}
        places = [(0, 0, 0), (0, 0, 1)]
        write_chunks(
            dataset,
            dataset.arrays[0],
            0,
            places,
            lambda _: None,
            author=NO_AUTHOR,
            header=header,
            run_all=in_turn,
        )


def before_the_first_look(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Have something changed when `verify` knows what to look at, and has looked at nothing."""
    look, changes = ChunkStore.problem, [change]

    def problem(store: ChunkStore, key: int, row: Any) -> str | None:  # noqa: ANN401
        while changes:
            changes.pop()()
        return look(store, key, row)

    monkeypatch.setattr(ChunkStore, "problem", problem)


@pytest.mark.parametrize("change", ["finished", "written again", "deleted"])
def test_what_moves_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    with dvidzarr.open(tmp_path / "store", settings=SETTINGS) as catalog:
        gray = world(catalog)

        def move() -> None:
            if change == "finished":
                gray.repo.commit(gray.repo.root)
            elif change == "written again":
                gray.at()[0:EDGE, 0:EDGE, 0 : 2 * EDGE] = 3
            else:
                delete(gray)
            assert catalog.context.housekeeper.settle(120)

        before_the_first_look(monkeypatch, move)
        assert [found for found in catalog.verify(deep=True) if found.severity != "note"] == []


@pytest.mark.parametrize("is_repo", [False, True])
@pytest.mark.parametrize("when", ["logs", "chunks"])
def test_what_another_process_deletes_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, is_repo: bool
) -> None:
    with dvidzarr.open(tmp_path / "store", settings=SETTINGS) as writer:
        gray = world(writer)
        gray.repo.commit(gray.repo.root)
        kept: Any = writer.create_repo("kept").create_instance("uint8blk", "gray")
        kept.at()[0:EDGE, 0:EDGE, 0:EDGE] = 1
        assert writer.context.housekeeper.settle(120)

        def delete_it() -> None:
            writer.delete_repo(gray.repo.root) if is_repo else gray.repo.delete_instance("gray")

        def gaps_then(*words: Any) -> Any:  # noqa: ANN401
            monkeypatch.setattr(verify, "gaps", gaps)
            delete_it()
            return gaps(*words)

        with dvidzarr.open(writer.url, "r") as reader:
            if when == "logs":
                monkeypatch.setattr(verify, "gaps", gaps_then)
            else:
                before_the_first_look(monkeypatch, delete_it)
            found = list(reader.verify(deep=True))
            assert [each for each in found if each.severity != "note"] == []
            assert any(kept.repo.root in each.message for each in found)


def test_what_does_not_move_is_damage(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store", settings=SETTINGS) as catalog:
        world(catalog)
        (pack,) = tmp_path.rglob("rewrites/*/*")
        pack.unlink()
        for deep in (True, False):
            found = [each.message for each in catalog.verify(deep=deep) if each.severity == "error"]
            assert len(found) == 2, found
