"""Random version graphs that answer what storage asks, straight from the definitions."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from dvidzarr.core.lineage import Lineage


@dataclass
class RandomVersions:
    """Versions 0 … n−1 with the parents given; all locked."""

    above: list[tuple[int, ...]]

    def id_of(self, ordinal: int) -> str:
        return f"version-{ordinal}"

    def ordinal_of(self, version_id: str) -> int | None:
        return int(version_id.rpartition("-")[2])

    def chain(self, ordinal: int) -> list[int]:
        """Return the first-parent chain, root first."""
        chain = [ordinal]
        while self.above[chain[0]]:
            chain.insert(0, self.above[chain[0]][0])
        return chain

    def lineage(self, ordinal: int) -> Lineage:
        root, *rest = self.chain(ordinal)
        lineage = Lineage.root(root)
        for child in rest:
            lineage = lineage.child(child)
        return lineage

    def parents(self, ordinal: int) -> Sequence[int]:
        return self.above[ordinal]

    def ancestors(self, ordinal: int) -> frozenset[int]:
        return frozenset({ordinal}).union(*(self.ancestors(parent) for parent in self.above[ordinal]))

    def merges(self, ordinal: int) -> Sequence[int]:
        return sorted(v for v in self.ancestors(ordinal) if len(self.above[v]) > 1)

    def fingerprint(self, count: int | None = None) -> str:
        return f"{len(self.above) if count is None else count} random"


@st.composite
def version_graphs(draw: st.DrawFn, *, merges: bool = True, largest: int = 9) -> RandomVersions:
    """Draw a DAG with one root; parents come before children."""
    above: list[tuple[int, ...]] = [()]
    for ordinal in range(1, draw(st.integers(1, largest))):
        most = min(3, ordinal) if merges else 1
        count = draw(st.integers(1, most))
        parents = draw(st.lists(st.integers(0, ordinal - 1), min_size=count, max_size=count, unique=True))
        above.append(tuple(parents))
    return RandomVersions(above)
