"""Key-value instances: a get as keys and versions grow, durable puts, opening with many keys, rebuilding their index."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

import dvidzarr
from benchmarks.timing import Case
from benchmarks.volumes import Plan, over, settings
from dvidzarr.datatypes.keyvalue.model import KeyValueView, Put
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.view import View

VALUE = bytes(200)
_AT_ONCE = 5000
_ASKED = 50_000
"""So many different keys are asked for, in random order: far more than the index keeps of what was looked up last."""
_TOGETHER = 8
_OPENINGS = 5
_REBUILDS = 2


def keys_of(view: View) -> KeyValueView:
    """Return a view whose instance is known to hold keys."""
    if not isinstance(view, KeyValueView):
        raise TypeError(f"{view!r} holds no keys")
    return view


def key_of(number: int) -> str:
    """Return the key of a number."""
    return f"{number:08d}_body"


def fill(store: Path, keys: int) -> None:
    """Make a store with so many keys in its only version."""
    with dvidzarr.open(store, "w", settings("fast")) as catalog:
        view = keys_of(catalog.create_repo("keys").create_instance("keyvalue", "kv").at())
        for start in range(0, keys, _AT_ONCE):
            view.update({key_of(number): VALUE for number in range(start, min(keys, start + _AT_ONCE))})


def opened(catalog: Catalog) -> KeyValueView:
    """Return the keys of a store that `fill` made."""
    return keys_of(catalog.repos[0].instance("kv").at())


def cases(plan: Plan) -> Iterator[list[Case]]:
    """Yield groups of cases that do the same."""
    yield from _by_number(plan)
    yield from _by_depth(plan)
    yield from _puts(plan)


def _by_number(plan: Plan) -> Iterator[list[Case]]:
    stores = {keys: plan.folder / f"keys{keys}" for keys in plan.keys}
    for keys, store in stores.items():
        fill(store, keys)
    catalogs = {keys: dvidzarr.open(store, "w", settings("fast")) for keys, store in stores.items()}
    try:
        yield [
            Case(
                "get a value of 200 B", f"dvidzarr, {keys} keys", over(_asked(keys), opened(each).__getitem__)
            )
            for keys, each in catalogs.items()
        ]
    finally:
        for each in catalogs.values():
            each.close()
    for what, cold, calls in (
        ("open and get a value", False, _OPENINGS),
        ("rebuild the index of keys", True, _REBUILDS),
    ):
        openings = {keys: Opening(store, key_of(keys // 2), cold=cold) for keys, store in stores.items()}
        yield [
            Case(what, f"dvidzarr, {keys} keys", opening.begin, prepare=opening.end, calls=calls)
            for keys, opening in openings.items()
        ]
        for opening in openings.values():
            opening.end()


def _asked(keys: int) -> list[str]:
    draw = random.Random(7)
    return [key_of(draw.randrange(keys)) for _ in range(_ASKED)]


@dataclass(slots=True)
class Opening:
    """Opens a store and gets one value; closing it, and dropping its caches if `cold`, is not timed."""

    store: Path
    key: str
    cold: bool
    _open: list[Catalog] = field(default_factory=list)

    def begin(self) -> None:
        """Open."""
        self._open.append(dvidzarr.open(self.store, "w", settings("fast")))
        if opened(self._open[0])[self.key] != VALUE:
            raise ValueError(f"{self.store} shows another value of {self.key}")

    def end(self) -> None:
        """Close, if it is open."""
        for catalog in self._open:
            catalog.close()
        self._open.clear()
        if self.cold:
            shutil.rmtree(self.store / "cache")


def _by_depth(plan: Plan) -> Iterator[list[Case]]:
    with dvidzarr.open(plan.folder / "deepkeys", "w", settings("fast")) as catalog:
        repo = catalog.create_repo("deep")
        instance = repo.create_instance("keyvalue", "kv")
        keys_of(instance.at()).update({key_of(number): VALUE for number in range(_AT_ONCE)})
        uuids = [repo.root]
        views = {}
        for depth in plan.depths:
            while len(uuids) <= depth:
                repo.commit(uuids[-1])
                uuids.append(repo.new_version(uuids[-1]).uuid)
            views[depth] = keys_of(instance.at(uuids[depth]))
        yield [
            Case(
                "get a value of the root",
                f"dvidzarr, depth {depth}",
                over(_asked(_AT_ONCE), view.__getitem__),
            )
            for depth, view in views.items()
        ]


def _puts(plan: Plan) -> Iterator[list[Case]]:
    catalogs = {
        durability: dvidzarr.open(plan.folder / f"puts-{durability}", "w", settings(durability))
        for durability in ("full", "fast")
    }
    try:
        views = {
            durability: keys_of(each.create_repo("puts").create_instance("keyvalue", "kv").at())
            for durability, each in catalogs.items()
        }
        for together in (1, _TOGETHER):
            yield [
                Case(
                    f"put values of 200 B, {together} together", f"dvidzarr, {name}", _putting(view, together)
                )
                for name, view in views.items()
            ]
    finally:
        for each in catalogs.values():
            each.close()


def _putting(view: KeyValueView, together: int) -> Callable[[], None]:
    numbers = count()
    return partial(_put, view, numbers, together)


def _put(view: KeyValueView, numbers: Iterator[int], together: int) -> None:
    view.put_all([Put(key_of(next(numbers)).encode(), VALUE) for _ in range(together)])
