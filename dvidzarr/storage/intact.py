"""Whether versions have all their records, where the log of an instance is damaged."""

from collections.abc import Callable

from dvidzarr.core.errors import CorruptionError
from dvidzarr.core.lineage import Lineage
from dvidzarr.storage.dataset import Dataset


def check_intact(dataset: Dataset, lineage: Lineage, sealed: Callable[[int], int | None]) -> None:
    """Refuse to read versions that may have lost records.

    `sealed` gives the last record of this instance that can concern a version, None while it is open. Versions
    sealed before the first damage are whole; of the others nobody can know what is missing.
    """
    if not dataset.log.damage:
        return
    first = dataset.log.damage[0].after
    for ordinal in map(int, (lineage.ranks >= 0).nonzero()[0]):
        seal = sealed(ordinal)
        if seal is None or seal > first:
            raise CorruptionError(
                f"version {dataset.versions.id_of(ordinal)} may have lost data: {dataset.prefix} "
                f"{dataset.log.damage[0]}; see `dvidzarr verify --repair`"
            )
