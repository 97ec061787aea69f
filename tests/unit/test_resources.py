"""Package data is found by name, and nothing outside it."""

import pytest

from dvidzarr.core.errors import NotFoundError
from dvidzarr.core.resources import read_resource


@pytest.mark.parametrize("name", ["config/default.toml", "api/README.md", "core/resources.py"])
def test_files_of_the_package_are_found(name: str) -> None:
    assert read_resource(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "config",
        "config/none.toml",
        "../pyproject.toml",
        "config/../pyproject.toml",
        "/etc/hostname",
        "a\\b",
        "a\0",
    ],
)
def test_anything_else_is_not(name: str) -> None:
    with pytest.raises(NotFoundError):
        read_resource(name)
