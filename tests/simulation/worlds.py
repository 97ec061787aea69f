"""Everything that a store shows, to be compared before and after a crash."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from dvidzarr.core.geometry import Box
from dvidzarr.repo.catalog import Catalog
from dvidzarr.storage.writing import get_document

WHOLE = Box((0, 0, 0), (8, 8, 32))
REGIONS = (
    Box((0, 0, 0), (8, 8, 16)),  # two chunks
    Box((0, 0, 16), (8, 8, 24)),
    Box((1, 2, 25), (6, 7, 31)),  # a part of a chunk
)
KEYS = (b"small", b"large", b"other")

Cells = dict[Hashable, Any]
"""(repo, instance, version, place) → what is shown there."""


@dataclass(frozen=True, slots=True)
class World:
    """What a store shows: versions, instances and notes; the cells; and what may be in use of the mutation ids."""

    structure: Any
    cells: Cells
    mutations: int


def observe(catalog: Catalog) -> World:
    """Return everything that a store shows."""
    structure, cells, mutations = [], {}, 0
    for repo in catalog.repos:
        versions = [
            (v.uuid, v.branch, v.locked, v.parents, v.note, v.log, v.number, v.created, v.updated)
            for v in repo.dag
        ]
        instances = sorted((name, each.uuid) for name, each in repo.instances.items())
        structure.append((repo.root, repo.alias, repo.description, repo.log, versions, instances))
        mutations = max(mutations, repo.mutation_id)
        for instance in repo.instances.values():
            for version in repo.dag if instance.versioned else [repo.dag.root]:
                for place, value in shown(instance.at(version)):
                    cells[repo.root, instance.uuid, version.uuid, place] = value
    return World(structure, cells, mutations)


def shown(view: Any) -> Iterator[tuple[Hashable, Any]]:  # noqa: ANN401 - a voxel view
    """Yield the places of a view and what they show."""
    voxels = view.read(WHOLE)
    for index, box in enumerate(REGIONS[:2]):
        z, y, x = (slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        yield index, voxels[z, y, x].tobytes()
    yield 2, voxels[:, :, 24:].tobytes()
    lineage, target = view.lineage(), view.instance.dataset
    for key in KEYS if target.caches.has_documents else ():
        if (value := get_document(target, key, lineage)) is not None:
            yield key, value
    yield "extents", view.extents
