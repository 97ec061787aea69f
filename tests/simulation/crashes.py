"""Power losses at every operation of a workload, the real recovery on what is left, and what must be true then."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dvidzarr.repo.catalog import Catalog
from tests.simulation.engine import STORE, abandon, open_store, small_and_calm
from tests.simulation.simdisk import Disk, Image
from tests.simulation.simos import SimOs, mounted
from tests.simulation.workload import AUTHOR, LATE, Ack, Workload
from tests.simulation.worlds import REGIONS, World, observe

REQUESTS = 40
_AGAIN = 0.15
"""How often a recovery is interrupted by a second power loss, a process is killed first, or the store is used again."""


@dataclass
class Tally:
    """How many states were drawn, how many of them differ, and what was wrong."""

    states: int = 0
    distinct: int = 0
    violations: list[str] = field(default_factory=list)

    def __add__(self, other: "Tally") -> "Tally":
        """Return both together."""
        return Tally(
            self.states + other.states,
            self.distinct + other.distinct,
            self.violations + other.violations,
        )


@dataclass(frozen=True, slots=True)
class Expected:
    """What may be shown: one of the last worlds; with durability `fast` a mixture of those since the last flush.

    `inheriting`: locked versions were written too. Then an ancestor may have been written after the version: where what
    the version said itself is lost, it shows what the ancestor says, though it never did before.
    """

    worlds: tuple[World, ...]
    structures: tuple[Any, ...]
    mutations: int
    inheriting: bool = False

    @classmethod
    def at(cls, acks: Sequence[Ack], done: int, *, inheriting: bool) -> "Expected":
        """Return what may be shown after a power loss behind so many operations."""
        last = max(index for index, ack in enumerate(acks) if ack.done <= done)
        safe = min(acks[last].safe, last)
        worlds = [ack.world for ack in acks[safe : last + 2]]
        structures = [world.structure for world in worlds[last - safe :]]
        return cls(tuple(worlds), tuple(structures), acks[last].world.mutations, inheriting)

    @classmethod
    def exactly(cls, world: World) -> "Expected":
        """Return that this must be shown."""
        return cls((world,), (world.structure,), world.mutations)

    def problem(self, world: World) -> str | None:
        """Return what is wrong with what is shown, None if nothing is."""
        if world.mutations < self.mutations:
            return f"mutation ids start again at {world.mutations}, {self.mutations} were in use"
        if world.structure not in self.structures:
            return f"versions or instances: {_difference(world.structure, self.structures)}"
        if len(self.worlds) <= 2:
            return None if any(world.cells == each.cells for each in self.worlds) else self._cells(world)
        return self._cells(world)

    def _cells(self, world: World) -> str | None:
        for place in {*world.cells, *(place for each in self.worlds for place in each.cells)}:
            value, allowed = world.cells.get(place), [each.cells.get(place) for each in self.worlds]
            if self.inheriting:
                allowed += [each.cells.get(other) for other in _above(world, place) for each in self.worlds]
            if place[-1] != "extents" and value not in allowed:  # type: ignore[index]
                return f"{place} shows {_short(value)}, allowed: {[*map(_short, allowed)]}"
        return "a mixture of requests" if len(self.worlds) <= 2 else None


def _above(world: World, place: Any) -> Iterator[Any]:  # noqa: ANN401 - repo, instance, version, what
    """Yield the same place in all ancestors of its version."""
    root, instance, version, what = place
    versions = next((repo[4] for repo in world.structure if repo[0] == root), [])
    waiting = [parents for uuid, _, _, parents, *_ in versions if uuid == version]
    while waiting:
        for parent in waiting.pop():
            waiting.append(versions[parent][3])
            yield root, instance, versions[parent][0], what


def _short(value: object) -> str:
    if isinstance(value, bytes) and len(value) >= 512:
        return f"voxels {sorted(set(value))}"
    return repr(value)[:60]


def _difference(found: Any, allowed: Sequence[Any]) -> str:  # noqa: ANN401 - nested tuples and lists
    return f"{found!r} is none of {allowed!r}"[:1500]


def crash(
    durability: str, seeds: Iterable[int], cache_dir: Path, *, samples: int = 2, points: float = 1.0
) -> Tally:
    """Run a workload per seed and crash it everywhere."""
    tally = Tally()
    with small_and_calm():
        for seed in seeds:
            workload = Workload(seed, durability, str(cache_dir)).run(REQUESTS)
            Crashes(workload, seed, tally).everywhere(samples, points)
    return tally


class Crashes:
    """Crashes of one workload. `chance` decides which; the same seed gives the same ones for the same trace."""

    def __init__(self, workload: Workload, seed: int, tally: Tally) -> None:
        self._workload = workload
        self._chance = random.Random(seed)
        self._tally = tally
        self._name = f"seed {seed}, {workload.settings.storage.durability}"
        self._seen: set[int] = set()
        self._place = ""

    def everywhere(self, samples: int, points: float = 1.0) -> None:
        """Draw so many states behind each operation, or behind a share of them."""
        disk, acks, trace = Disk(), self._workload.acks, self._workload.system.trace
        for done, op in enumerate([None, *trace]):
            if op is not None:
                disk.apply(op)
            following = next((ack for ack in acks if ack.done > done), None)
            late = following is not None and following.what == LATE
            if done < acks[0].done or late or self._chance.random() > points:
                continue
            expected = Expected.at(acks, done, inheriting=self._workload.full_write)
            self._place = f"{self._name}, after operation {done} of {len(trace)} {op and op[0]}"
            for _ in range(samples):
                self._lose_power(disk, expected)
            if self._chance.random() < _AGAIN:
                self._kill(done, expected)

    # --- ways to crash ---------------------------------------------------------------------------------------

    def _lose_power(self, disk: Disk, expected: Expected, *, deeper: bool = True) -> None:
        image = disk.survivors(self._chance)
        self._tally.states += 1
        key = hash((tuple(image.items()), tuple(map(id, expected.worlds))))
        if key in self._seen:
            return
        self._seen.add(key)
        self._tally.distinct += 1
        system = SimOs(Disk.after(image))
        with self._recovered(system) as catalog:
            ready, world = len(system.trace), self._check(catalog, expected)
            again = world is not None and self._chance.random() < _AGAIN
            if again and world is not None:
                self._use(catalog, world)
        if again and deeper and world is not None:
            self._lose_power_again(image, system, ready, expected, world)

    def _lose_power_again(
        self, image: Image, system: SimOs, ready: int, expected: Expected, world: World
    ) -> None:
        """Lose power while recovering, or afterwards: what was shown then must not go away."""
        for _ in range(3):
            done = self._chance.randrange(ready + 1)
            disk = Disk.after(image).replay(system.trace[:done])
            self._lose_power(disk, Expected.exactly(world) if done == ready else expected, deeper=False)

    def _kill(self, done: int, expected: Expected) -> None:
        """Kill the process, recover, and lose power: what was served from the page cache must have been made durable."""
        trace = self._workload.system.trace[:done]
        system = SimOs(Disk().replay(trace))
        full = self._workload.settings.storage.durability == "full"
        with self._recovered(system) as catalog:
            world = self._check(catalog, expected)
            if world is not None and catalog is not None and full and self._chance.random() < 0.5:
                self._use(catalog, world)
                world = observe(catalog)
        if world is not None:
            for _ in range(2):
                self._lose_power(system.disk, Expected.exactly(world), deeper=False)

    # --- afterwards ------------------------------------------------------------------------------------------

    @contextmanager
    def _recovered(self, system: SimOs) -> Iterator[Catalog | None]:
        with mounted(system):
            catalog = self._open()
            yield catalog
            if catalog is not None:
                abandon(catalog)

    def _open(self) -> Catalog | None:
        try:
            return open_store(self._workload.settings)
        except Exception as error:  # noqa: BLE001 - whatever it is, the store did not open
            self._violated(f"cannot be opened: {error!r}")
            return None

    def _check(self, catalog: Catalog | None, expected: Expected) -> World | None:
        """Look at everything; return it if all is as it must be."""
        if catalog is None:
            return None
        try:
            world = observe(catalog)
        except Exception as error:  # noqa: BLE001 - whatever it is, something cannot be read
            self._violated(f"cannot be read: {error!r}")
            return None
        problem = _damage(catalog) or expected.problem(world)
        if problem is not None:
            self._violated(problem)
            return None
        return world

    def _use(self, catalog: Catalog, world: World) -> None:
        """Go on: background work changes nothing that is shown, and writes work."""
        try:
            catalog.context.housekeeper.run()  # type: ignore[attr-defined]
            problem = Expected.exactly(world).problem(observe(catalog))
            for repo in catalog.repos:
                for instance in repo.instances.values():
                    for version in [version for version in repo.dag if not version.locked][:1]:
                        view: Any = instance.at(version)
                        view.write(REGIONS[0], np.full(REGIONS[0].shape, 255, np.uint8), AUTHOR)
                        problem = problem or (
                            None if view.read(REGIONS[0]).min() == 255 else "a write is lost"
                        )
        except Exception as error:  # noqa: BLE001 - whatever it is, the store is of no use
            problem = f"cannot be used: {error!r}"
        if problem is not None:
            self._violated(f"afterwards: {problem}")

    def _violated(self, what: str) -> None:
        self._tally.violations.append(f"{self._place}: {what}")


def _damage(catalog: Catalog) -> str | None:
    if catalog.broken:
        return f"broken repos: {catalog.broken}"
    for repo in catalog.repos:
        for instance in repo.instances.values():
            if instance.dataset.log.damage:
                return f"{STORE}/{instance.prefix}: {instance.dataset.log.damage[0]}"
    return None
