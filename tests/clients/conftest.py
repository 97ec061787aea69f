"""A server of its own for each client: they create what they need."""

from collections.abc import Iterator

import pytest

from tests.clients.served import Served, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Grayscale in two versions, served to web pages of every origin."""
    with serving(tmp_path_factory.mktemp("gray") / "store", "*") as found:
        yield found
