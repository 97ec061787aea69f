"""Durability `fast`: after a power loss each place shows something acknowledged since the last flush, and nothing torn."""

from pathlib import Path

import pytest

from tests.simulation.test_power_loss import until_enough


@pytest.mark.slow
def test_many_power_losses_since_the_last_flush(tmp_path: Path) -> None:
    total = until_enough("fast", tmp_path / "caches")
    assert total.violations == []
