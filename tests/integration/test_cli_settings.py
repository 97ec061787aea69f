"""The command line makes no instance with a setting that its type does not know."""

from collections import UserDict
from pathlib import Path
from typing import Any

import pytest

from dvidzarr.datatypes import BUILTIN
from dvidzarr.repo.config import COMMON_SETTINGS, parse_common
from tests.integration.cli_process import Shell


@pytest.mark.parametrize("where", ["path", "url"])
def test_an_unknown_setting_is_refused_and_the_known_ones_are_named(
    shell: Shell, tmp_path: Path, where: str
) -> None:
    store = tmp_path / "store"
    root = shell.ok("new", "repo", store)
    new = ("new", "instance", store)
    if where == "url":
        with shell.server(store) as url:
            check(shell, root, ("new", "instance", url))
    else:
        check(shell, root, new)
    assert "gray" in shell.ok("repos", store)
    assert "other" not in shell.ok("repos", store)


def check(shell: Shell, root: str, new: tuple[object, ...]) -> None:
    for name in ("Frob", "typename", "dataname", "BlockSizes"):
        line = shell.fails(*new, root, "uint8blk", "other", "--set", f"{name}=roi")
        assert f"uint8blk knows no setting {name!r}" in line
        assert "BlockSize" in line
        assert "Compression" in line
    assert "BlockSize" not in shell.fails(*new, root, "keyvalue", "other", "--set", "Frob=3")
    settings = ("--set", "blocksize=16,16,16", "--set", "COMPRESSION=gzip", "--set", "Tags=a=b")
    shell.ok(*new, root, "uint8blk", "gray", *settings)


class Asked(UserDict[str, Any]):
    """Settings of which none is given, and which are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - as a dict
        self.names.add(key)
        return default

    def __contains__(self, key: object) -> bool:
        self.names.add(str(key))
        return False


@pytest.mark.parametrize("name", BUILTIN)
def test_the_settings_that_a_type_names_are_those_that_it_reads(name: str) -> None:
    own, common = Asked(), Asked()
    config: Any = own
    BUILTIN[name].instance.parse_config(config)
    parse_common(common)
    assert own.names == {setting.lower() for setting in BUILTIN[name].settings}
    assert common.names == {setting.lower() for setting in COMMON_SETTINGS}
