"""No power loss at any step takes what was acknowledged, tears anything, or leaves a store that cannot be used.

Durability `full`: what is shown afterwards is exactly what was shown before the request that was running, or after it.
"""

import itertools
import time
from pathlib import Path

import pytest

from tests.simulation.crashes import Tally, crash

SEEDS_AT_ONCE = 10
STATES = 102_000
"""Wanted of each durability in a whole run."""


def until_enough(durability: str, cache_dir: Path) -> Tally:
    """Crash workload after workload until there were enough states; print what was done."""
    total, start, seed = Tally(), time.monotonic(), 0
    for seed in itertools.count(1000, SEEDS_AT_ONCE):
        total += crash(durability, range(seed, seed + SEEDS_AT_ONCE), cache_dir)
        if total.states >= STATES or total.violations:
            break
    rate = total.states / (time.monotonic() - start)
    print(  # noqa: T201 - the numbers of a run
        f"\n{durability}: seeds 1000 to {seed + SEEDS_AT_ONCE - 1}, {total.states} states, {total.distinct} different, "
        f"{rate:.0f}/s, {len(total.violations)} violations"
    )
    return total


@pytest.mark.parametrize("durability", ["full", "fast"])
def test_some_power_losses(durability: str, tmp_path: Path) -> None:
    tally = crash(durability, range(4), tmp_path / "caches", points=0.5)
    assert tally.violations == []
    assert tally.distinct > 500


@pytest.mark.slow
def test_many_power_losses(tmp_path: Path) -> None:
    total = until_enough("full", tmp_path / "caches")
    assert total.violations == []
