"""What merges of versions are said to conflict in, and what resolving makes of it, against the rules taken literally."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dvidzarr
from dvidzarr.core.errors import DvidzarrError
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.repo.dag import Version
from dvidzarr.repo.repo import Repo
from dvidzarr.storage.merging import Groups
from dvidzarr.storage.writing import write_chunks
from tests.property.dags import RandomVersions, version_graphs
from tests.stateful.model import CONFLICT, Cells, ModelDag, Seen

NO_SYNC = Settings.load(env={}, overrides={"storage.durability": "fast", "compute.threads": 1})
CHUNKS = ((0, 0, 0), (0, 0, 1))
KEYS = ("a", "b")
GRID = 4

words = st.dictionaries(st.sampled_from((*CHUNKS, *KEYS)), st.booleans(), max_size=3)
"""What a version writes: place → whether a value, or a deletion."""


class World:
    """A store whose versions wrote what was drawn, all locked, and the same as dictionaries."""

    def __init__(self, repo: Repo, graph: RandomVersions, writes: list[dict[Any, bool]]) -> None:
        self.repo = repo
        self.gray = repo.create_instance("uint8blk", "gray", {"BlockSize": f"{GRID},{GRID},{GRID}"})
        self.notes: Any = repo.create_instance("keyvalue", "notes")
        self.dag, self.cells = ModelDag(list(graph.above)), Cells()
        for ordinal, parents in enumerate(graph.above):
            above = [repo.dag.versions[parent] for parent in parents]
            if len(above) == 1:
                repo.branch(above[0], f"branch-{ordinal}")
            elif above:
                repo.merge(above)
            for place, there in writes[ordinal].items():
                self.write(repo.dag.versions[ordinal], place, ordinal + 1 if there else None)
                self.cells.put(ordinal, place, ordinal + 1 if there else None)
            repo.commit(repo.dag.versions[ordinal])

    def write(self, version: Version, place: Any, value: int | None) -> None:  # noqa: ANN401
        if isinstance(place, str):
            notes = self.notes.at(version)
            notes.remove([place]) if value is None else notes.put(place, bytes([value]))
        elif value is not None:
            block = np.full((1, GRID, GRID, GRID), value, np.uint8)
            self.gray.at(version).write_blocks(np.array([place]), block)
        else:
            view = self.gray.at(version)
            run = self.repo.catalog.scheduler.write
            with view.writing() as dataset:
                write_chunks(
                    dataset,
                    view.chunks,
                    version.ordinal,
                    [place],
                    lambda _: None,
                    author=Author(),
                    header={},
                    run_all=run,
                )

    def shown(self, version: Version) -> dict[Any, int]:
        found: dict[Any, int] = {key: value[0] for key, value in self.notes.at(version).items()}
        for place in CHUNKS:
            value = int(self.gray.at(version)[tuple(slice(GRID * at, GRID * at + 1) for at in place)].max())
            found |= {place: value} if value else {}
        return found

    def offers(self, place: Any, parents: list[int]) -> list[Seen]:  # noqa: ANN401
        return [self.cells.see(self.dag, parent, place) for parent in parents]

    def is_known(self, place: Any, parents: list[int]) -> bool:  # noqa: ANN401
        """Tell whether all parents show the same: a conflict that they have in common is none of their merge."""
        return len(set(self.offers(place, parents))) == 1

    def groups(self, place: Any, parents: list[int]) -> Groups:  # noqa: ANN401
        """Return who shows which of the values that nothing supersedes, and in the end who shows a conflict."""
        offers = self.offers(place, parents)
        origins = {seen[0] for seen in offers if seen is not None}
        left: dict[int, list[int]] = {}
        broken = []
        for index, seen in enumerate(offers):
            if seen is not None and seen[1] is not None:
                beaten = any(seen[0] != o and seen[0] in self.dag.ancestors(o) for o in origins)
                if not beaten and seen[1] is CONFLICT:
                    broken.append(index)
                elif not beaten:
                    left.setdefault(seen[0], []).append(index)
        groups = tuple(map(tuple, left.values()))
        return (*(groups or ((),)), tuple(broken)) if broken else groups


@given(version_graphs(largest=7), st.data())
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_reports_and_resolutions(graph: RandomVersions, data: st.DataObject) -> None:
    writes = [data.draw(words) for _ in graph.above]
    parents = data.draw(
        st.lists(st.integers(0, len(writes) - 1), min_size=2, max_size=3, unique=True)
        if len(writes) > 1
        else st.just([])
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        dvidzarr.open(Path(folder) / "store", settings=NO_SYNC) as catalog,
    ):
        world = World(catalog.create_repo(), graph, writes)
        repo = world.repo
        above = [repo.dag.versions[parent] for parent in parents]
        before = list(repo.dag)
        if not parents:
            return
        want = {
            place: groups
            for place in (*CHUNKS, *KEYS)
            if len(groups := world.groups(place, parents)) > 1 and not world.is_known(place, parents)
        }
        found = {each.instance: each for each in repo.conflicts(above)}
        got: dict[Any, Groups] = {}
        if "gray" in found:
            got |= {coord: groups for _, coord, groups in found["gray"].chunks}
        if "notes" in found:
            got |= {key.decode(): groups for key, groups in found["notes"].keys}
        assert got == want
        assert list(repo.dag) == before
        expected = {}
        for place in (*CHUNKS, *KEYS):
            groups = world.groups(place, parents)
            if groups and groups[0]:
                expected[place] = world.offers(place, parents)[groups[0][0]][1]  # type: ignore[index]
        merged = repo.resolve_merge(above, ["gray", "notes"])
        assert world.shown(merged) == expected
        assert not merged.locked
        added = [version for version in repo.dag if version.ordinal >= len(before)]
        assert all(version.branch.startswith("conflict-") and version.locked for version in added[:-1])
        assert [version.ordinal for version in before] == [v.ordinal for v in list(repo.dag)[: len(before)]]
        assert [world.shown(version) for version in above] == [
            {
                p: s[1]
                for p in (*CHUNKS, *KEYS)
                if (s := world.cells.see(world.dag, o, p)) and s[1] not in (None, CONFLICT)
            }
            for o in parents
        ]


def test_refused_merges_leave_the_versions_as_they_were(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo, other = catalog.create_repo(), catalog.create_repo()
        notes: Any = repo.create_instance("keyvalue", "notes")
        root = repo.commit(repo.root)
        one, two, unlocked = (repo.branch(root, name) for name in ("one", "two", "unlocked"))
        for version in (one, two):
            notes.at(version)["key"] = version.uuid.encode()
            repo.commit(version)
        catalog.repo(other.root).commit(other.root)
        before = list(repo.dag)
        refused: list[list[Any]] = [
            [],
            [one],
            [one, one],
            [one, unlocked],
            [one, "ffff" * 8],
            [one, other.root],
        ]
        for parents in refused:
            with pytest.raises(DvidzarrError):
                repo.merge(parents)
            with pytest.raises(DvidzarrError):
                repo.resolve_merge(parents, ["notes"])
            if unlocked not in parents:
                with pytest.raises(DvidzarrError):
                    repo.conflicts(parents)
            assert list(repo.dag) == before, parents
        with pytest.raises(DvidzarrError):
            repo.resolve_merge([one, two], ["notes", "nothing"])
        assert list(repo.dag) == before
