"""All groups of cases by name, in the order in which they run."""

from collections.abc import Callable, Iterator

from benchmarks import depth, keys, labels, onloop, overload, reads, served, startup, threads, workers, writes
from benchmarks.timing import Case, Figure
from benchmarks.volumes import Built, Plan, build

Items = Iterator[list[Case] | Figure]


class Bench:
    """One run: the plan, and the store that groups which only read share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._built: Built | None = None

    @property
    def built(self) -> Built:
        """The store with the volume, made when first needed."""
        if self._built is None:
            self._built = build(self.plan)
        return self._built


GROUPS: dict[str, Callable[[Bench], Items]] = {
    "reads": lambda bench: reads.cases(bench.plan, bench.built),
    "threads": lambda bench: threads.cases(bench.plan),
    "served": lambda bench: served.cases(bench.plan, bench.built),
    "workers": lambda bench: workers.cases(bench.plan, bench.built),
    "overload": lambda bench: overload.cases(bench.plan, bench.built),
    "labels": lambda bench: labels.cases(bench.plan),
    "depth": lambda bench: depth.cases(bench.plan),
    "writes": lambda bench: writes.cases(bench.plan),
    "keys": lambda bench: keys.cases(bench.plan),
    "onloop": lambda bench: onloop.cases(bench.plan),
    "startup": lambda bench: startup.cases(bench.plan),
}


def ours(item: list[Case]) -> list[Case]:
    """Return the cases of this project: what a comparison of two commits repeats."""
    return [case for case in item if case.who.startswith("dvidzarr")]
