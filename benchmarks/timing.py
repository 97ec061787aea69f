"""Measuring contestants in turns, so that a busy moment of the machine hits all of them alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

_TURN_S = 0.02
_MAX_CALLS = 200
_MIN_ROUNDS = 3


class Timed(Protocol):
    """Something that can be called and timed, here or in another process."""

    @property
    def name(self) -> str: ...
    @property
    def who(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def calls(self) -> int: ...

    def turn(self, calls: int) -> list[float]:
        """Call it that many times; return the seconds of each call."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """One thing done by one contestant.

    Attributes
    ----------
    name
        What is done. Cases of one name are compared.
    who
        By whom; "dvidzarr" and names that begin so are ours.
    nbytes
        Decoded bytes of one call, 0 if a rate says nothing.
    prepare
        Called before each call, not timed.
    calls
        Most calls in all: for what changes the store. 0 = as many as fit into the time.
    """

    name: str
    who: str
    run: Callable[[], object]
    nbytes: int = 0
    prepare: Callable[[], object] | None = None
    calls: int = 0

    def turn(self, calls: int) -> list[float]:
        seconds = []
        for _ in range(calls):
            if self.prepare is not None:
                self.prepare()
            start = perf_counter()
            self.run()
            seconds.append(perf_counter() - start)
        return seconds


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value: the median of many, with what is needed to doubt it."""

    name: str
    who: str
    value: float
    unit: str
    low: float
    high: float
    p99: float
    samples: int
    nbytes: int = 0

    @property
    def rate(self) -> float:
        """Decoded bytes per second, 0 if there is none."""
        return self.nbytes / self.value if self.unit == "s" and self.value else 0.0


def single(name: str, who: str, value: float, unit: str) -> Figure:
    """Return a figure of one value."""
    return Figure(name, who, value, unit, value, value, value, 1)


def of_samples(name: str, who: str, seconds: Sequence[float], nbytes: int = 0) -> Figure:
    """Return the figure of timed calls."""
    low, value, high, p99 = np.percentile(seconds, (25, 50, 75, 99)).tolist()
    return Figure(name, who, value, "s", low, high, p99, len(seconds), nbytes)


def interleave(cases: Sequence[Timed], seconds_each: float) -> list[Figure]:
    """Time cases in turns of about 20 ms each, at least 3, until each had its time (or its number of calls)."""
    first = [case.turn(1)[0] for case in cases]  # warms caches; counts only where calls are rare
    samples = [
        [seconds] if 0 < case.calls <= _MIN_ROUNDS else [] for case, seconds in zip(cases, first, strict=True)
    ]
    sizes = [min(_MAX_CALLS, max(1, int(_TURN_S / max(seconds, 1e-9)))) for seconds in first]
    rounds = 0
    while waiting := [
        index for index in range(len(cases)) if _goes_on(cases[index], samples[index], seconds_each)
    ]:
        shift = rounds % len(waiting)
        for index in waiting[shift:] + waiting[:shift]:  # nobody always follows the same neighbour
            left = cases[index].calls - len(samples[index]) if cases[index].calls else _MAX_CALLS
            samples[index] += cases[index].turn(min(sizes[index], left))
        rounds += 1
    return [
        of_samples(case.name, case.who, seconds, case.nbytes)
        for case, seconds in zip(cases, samples, strict=True)
    ]


def _goes_on(case: Timed, samples: list[float], seconds_each: float) -> bool:
    if case.calls and len(samples) >= case.calls:
        return False
    return sum(samples) < seconds_each or len(samples) < _MIN_ROUNDS
