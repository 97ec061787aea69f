"""What integration tests share."""

from pathlib import Path

import pytest

from tests.integration.cli_process import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return what runs commands, with a state folder of its own."""
    return Shell(tmp_path)
