"""A voxel instance as a Zarr hierarchy: the metadata of each version, and the files of the root version."""

from typing import TYPE_CHECKING, Any

from dvidzarr.core.geometry import ZYX
from dvidzarr.storage.zarrmeta import array_document, encoded, group_document, ngff

if TYPE_CHECKING:
    from dvidzarr.datatypes.voxels.model import VoxelInstance

_DELAY_S = 1.0  # zarr.json is derived state: written at most once a second


class Hierarchy:
    """What Zarr readers see of an instance. Shapes that were worked out are kept, with the log position they are of."""

    def __init__(self, instance: "VoxelInstance") -> None:
        self._instance = instance
        self._shapes: dict[int, tuple[int, ZYX]] = {}

    def shape(self, ordinal: int) -> ZYX:
        """Return the shape (z, y, x) of the array of a version; of a sealed one it is worked out once."""
        instance = self._instance
        sealed = instance.sealed(instance.repo.dag.versions[ordinal])
        state = -1 if sealed else instance.dataset.log.tail.sequence
        known = self._shapes.get(ordinal)
        if known is None or known[0] != state:
            known = self._shapes[ordinal] = (state, self._shape(ordinal))
        return known[1]

    def _shape(self, ordinal: int) -> ZYX:
        """Return where the extents end, or the chunks where they lie beyond."""
        instance = self._instance
        extents = instance.stored_extents(ordinal)
        end = (0, 0, 0) if extents is None else extents.stop
        hull = instance.dataset.arrays[0].hull(ordinal)
        z, y, x = (
            max(size, 0) if -(-size // step) >= top else top * step
            for size, top, step in zip(end, hull.tolist(), instance.chunk, strict=True)
        )
        return z, y, x

    def documents(self, ordinal: int, attributes: dict[str, Any]) -> dict[str, bytes]:
        """Return the metadata of a version: relative key → `zarr.json`."""
        instance = self._instance
        settings = instance.settings
        multiscale = ngff(instance.name, settings.voxel_size_xyz, settings.voxel_units_xyz)
        array = array_document(
            self.shape(ordinal), instance.dataset.arrays[0].codec, {"dvidzarr": attributes}
        )
        group = group_document({"ome": multiscale, "dvidzarr": attributes})
        return {"zarr.json": encoded(group), "0/zarr.json": encoded(array)}

    def write_later(self) -> None:
        """Write the metadata of the root version's folder soon."""
        instance = self._instance
        instance.repo.context.housekeeper.schedule(_DELAY_S, ("metadata", instance.id), self.write)

    def write(self) -> None:
        """Write the metadata of the root version's folder where it is not as it must be."""
        instance = self._instance
        if not instance.opened or not instance.dataset.writable:
            return
        backend = instance.dataset.context.backend
        for key, document in instance.derived_files().items():
            if backend.get(key) != document:
                backend.replace(key, document)

    def files(self) -> dict[str, bytes]:
        """Return the metadata of the root version's folder, by key: `locked` once its overlay is finished."""
        instance = self._instance
        root = instance.repo.dag.root
        done = instance.locked(root) and root.ordinal in instance.dataset.finished
        attributes = {"state": "locked" if done else "open", "version": root.uuid, "instance": instance.name}
        folder = f"{instance.prefix}/versions/{instance.dataset.versions.id_of(0)}"
        return {f"{folder}/{name}": document for name, document in self.documents(0, attributes).items()}
