"""`dvidzarr kv` on a path and on a URL: values, listings, folders and archives."""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

import dvidzarr
from tests.integration.cli_process import Shell

NOTES = ":master/notes"
ODD = {"plain": b"1", "a/b/c": b"2", "..": b"3", "100%": b"4", "é ß": b"", "tab\there": b"5", ".dot": b"6"}


@pytest.fixture(params=["path", "url"])
def store(request: pytest.FixtureRequest, shell: Shell, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder)
    shell.ok("new", "instance", folder, ":master", "keyvalue", "notes")
    if request.param == "path":
        yield str(folder)
    else:
        with shell.server(folder) as url:
            yield url


def value(shell: Shell, store: str, key: str, folder: Path) -> bytes:
    file = folder / "value"
    shell.ok("kv", "get", store, NOTES, key, "-o", file)
    return file.read_bytes()


def test_put_get_ls_rm(shell: Shell, store: str, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "large").write_bytes(content)
    shell.ok("kv", "put", store, NOTES, "large", tmp_path / "large")
    shell.ok("kv", "put", store, NOTES, "dir/name", tmp_path / "large")
    (tmp_path / "empty").touch()
    shell.ok("kv", "put", store, NOTES, "empty", tmp_path / "empty")
    shell.ok("kv", "put", store, NOTES, "dir/empty", tmp_path / "empty")
    assert shell.ok("kv", "ls", store, NOTES).split() == ["dir/empty", "dir/name", "empty", "large"]
    assert json.loads(shell.ok("kv", "ls", store, NOTES, "--from", "dir/f", "--to", "empty", "--json")) == [
        "dir/name",
        "empty",
    ]
    for key, wanted in (("large", content), ("dir/name", content), ("empty", b""), ("dir/empty", b"")):
        assert value(shell, store, key, tmp_path) == wanted
    shell.ok("kv", "rm", store, NOTES, "large", "never-there")
    assert shell.ok("kv", "ls", store, NOTES).split() == ["dir/empty", "dir/name", "empty"]


def test_stdin_and_stdout(shell: Shell, store: str) -> None:
    process = shell.start("kv", "put", store, NOTES, "no-input")
    assert process.communicate(timeout=120) == ("", "")
    assert shell.ok("kv", "ls", store, NOTES) == "no-input"
    with patch("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe"))):
        shell.ok("kv", "put", store, NOTES, "piped")
    process = shell.start("kv", "get", store, NOTES, "piped")
    assert process.communicate(timeout=120) == ("from a pipe", "")


@pytest.mark.parametrize("ending", ["", ".tar", ".tar.gz"])
def test_export_and_import_give_the_same(shell: Shell, store: str, tmp_path: Path, ending: str) -> None:
    with tarfile.open(tmp_path / "source.tar", "w") as archive:
        for key, content in ODD.items():
            info = tarfile.TarInfo(key)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    shell.ok("kv", "import", store, NOTES, tmp_path / "source.tar")
    out = tmp_path / f"out{ending}"
    shell.ok("kv", "export", store, NOTES, out)
    assert "--force" in shell.fails("kv", "export", store, NOTES, out)
    shell.ok("kv", "export", store, NOTES, out, "--force")
    other = tmp_path / "other"
    shell.ok("new", "repo", other)
    shell.ok("new", "instance", other, ":master", "keyvalue", "notes", "--unversioned")
    shell.ok("kv", "import", other, NOTES, out)
    with dvidzarr.open(other, "r") as catalog:
        instance = catalog.repos[0].instance("notes")
        assert dict(instance.at().items()) == ODD
        assert not instance.versioned
    assert sorted(os.listdir(tmp_path)) == sorted(
        {"source.tar", f"out{ending}", "other", "store"} | ({"state"} & set(os.listdir(tmp_path)))
    )


def test_many_keys_in_subfolders(shell: Shell, store: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(1200):
        file = source / f"{number % 7}" / f"{number:04}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(number))
    shell.ok("kv", "import", store, NOTES, source)
    names = shell.ok("kv", "ls", store, NOTES).split()
    assert names == sorted(f"{number % 7}/{number:04}" for number in range(1200))
    assert value(shell, store, "3/0003", tmp_path) == b"3"


def test_failures_are_one_line(shell: Shell, store: str, tmp_path: Path) -> None:
    assert "not found" in shell.fails("kv", "get", store, NOTES, "nothing").lower().replace(
        "is no key", "not found"
    )
    assert "no key 'a/b'" in shell.fails("kv", "get", store, NOTES, "a/b")
    assert "no instance 'other'" in shell.fails("kv", "ls", store, ":master/other")
    (tmp_path / "text").write_text("no archive")
    assert "tar archive" in shell.fails("kv", "import", store, NOTES, tmp_path / "text")
    shell.ok("new", "instance", store, ":master", "uint8blk", "gray")
    assert "holds no keys" in shell.fails("kv", "ls", store, ":master/gray")


def test_a_long_key_does_not_become_a_file(shell: Shell, store: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    shell.ok("kv", "put", store, NOTES, "k" * 300, tmp_path / "text")
    assert ".tar" in shell.fails("kv", "export", store, NOTES, tmp_path / "out")
    shell.ok("kv", "export", store, NOTES, tmp_path / "out.tar")


@pytest.mark.parametrize("name", ["get", "put", "ls", "rm", "import", "export"])
def test_every_command_explains_itself(shell: Shell, name: str) -> None:
    text = shell.ok("kv", name, "--help")
    assert text.startswith(f"Usage: dvidzarr kv {name} [OPTIONS] STORE REF/INSTANCE")


def test_a_folder_is_not_named_like_an_archive(shell: Shell, store: str, tmp_path: Path) -> None:
    assert ".tar.gz" in shell.fails("kv", "export", store, NOTES, tmp_path / "notes.zip")
    assert not (tmp_path / "notes.zip").exists()
