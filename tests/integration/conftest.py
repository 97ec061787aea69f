"""What integration tests share."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.server.app import running
from tests.integration.cli_process import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return what runs commands, with a state folder of its own."""
    return Shell(tmp_path)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """Give an empty store, open for writing."""
    with dvidzarr.open(tmp_path / "store", "w") as opened:
        yield opened


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the URL of a server with a store of its own, which the tests of a module share."""
    folder = tmp_path_factory.mktemp("served") / "store"
    with dvidzarr.open(folder) as catalog, running(catalog, Settings()) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    """Give what asks that server."""
    with httpx.Client(base_url=url, timeout=120) as found:
        yield found
