"""Every command on a path and on a URL: what it does, what it prints, how it fails."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dvidzarr.cli.commands import COMMANDS
from dvidzarr.cli.main import main
from dvidzarr.datatypes import BUILTIN
from tests.integration.cli_process import Shell

ROOT = "28841c8277e044a7b187dda03e18da13"


@pytest.fixture(params=["path", "url"])
def store(request: pytest.FixtureRequest, shell: Shell, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "store"
    if request.param == "path":
        yield str(folder)
    else:
        with shell.server(folder) as url:
            yield url


GROUPS = {"new": ("repo", "instance"), "log": ("show",), "config": ("show",)}


@pytest.mark.parametrize(
    "words", [(), *((name,) for name in COMMANDS), *((a, b) for a in GROUPS for b in GROUPS[a])]
)
def test_every_command_explains_itself(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: dvidzarr")
    assert len(text.splitlines()) > 4


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["nothing"],
        ["commit"],
        ["serve", "x", "--port", "high"],
        ["export", "s", "name", "a.tif"],
    ):
        assert main(words) == 2
        assert "rror" in capsys.readouterr().err


def test_it_is_run_as_a_module_too() -> None:
    command = [sys.executable, "-m", "dvidzarr", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dvidzarr, version ")


def test_the_help_names_every_datatype(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "instance", "--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in BUILTIN if name not in text] == []


def test_help_needs_no_array_library(shell: Shell) -> None:
    code = "import sys, dvidzarr.cli.main as m; m.main(['serve', '--help']);"
    code += "print([n for n in ('zarr', 'dask', 'h5py', 'rich', 'aiohttp') if n in sys.modules])"
    out = subprocess.run(
        (sys.executable, "-c", code), env=shell.env, capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "[]"


def test_life_of_a_repo(shell: Shell, store: str) -> None:
    root = shell.ok("new", "repo", store, "--alias", "fly", "--description", "a fly", "--root", ROOT)
    assert root == ROOT
    shell.ok("new", "instance", store, "2884", "uint8blk", "gray", "--set", "BlockSize=32,32,32")
    assert shell.ok("commit", store, "2884", "-m", "raw data") == ROOT
    child = shell.ok("newversion", store, ":master", "-m", "mended")
    side = shell.ok("branch", store, ROOT[:6], "side")
    shell.ok("rename", store, ROOT, "gray", "grayscale")
    text = shell.ok("repos", store)
    lines = text.splitlines()
    assert lines[0] == f"repo {ROOT}  fly a fly"
    assert "grayscale  (uint8blk)" in lines[1]
    assert lines[2].split() == ["●", ROOT, "master", "locked", "“raw", "data”"]
    assert f"│ ○  {side}  side  open" in text
    assert f"  ○  {child}  master  open  “mended”" in text
    (repo,) = json.loads(shell.ok("repos", store, "--json"))
    assert [version["uuid"] for version in repo["versions"]] == [ROOT, child, side]
    assert [version["parents"] for version in repo["versions"]] == [[], [ROOT], [ROOT]]
    shell.ok("delete", store, ROOT, "grayscale", "--yes")
    assert "grayscale" not in shell.ok("repos", store)
    shell.ok("delete", store, ROOT, "--yes")
    assert shell.run("repos", store).out == ""


def test_mistakes_are_one_line(shell: Shell, store: str) -> None:
    shell.ok("new", "repo", store, "--root", ROOT)
    assert "could not find UUID" in shell.fails("commit", store, "ffff")
    assert f"(version {ROOT}) is open" in shell.fails("newversion", store, ROOT[:8])
    assert f"(version {ROOT}) is open" in shell.fails("branch", store, ROOT[:8], "b")
    assert "exist" in shell.fails("new", "repo", store, "--root", ROOT)
    assert "not supported" in shell.fails("new", "instance", store, ROOT, "nosuchtype", "x")
    assert "has no instance 'absent'" in shell.fails("rename", store, ROOT, "absent", "x")
    assert "has no instance 'absent'" in shell.fails("delete", store, ROOT, "absent", "--yes")
    assert "no instance 'absent'" in shell.fails("export", store, f"{ROOT}/absent", "x.tif")
    shell.ok("commit", store, ROOT)
    assert "locked" in shell.fails("new", "instance", store, ROOT, "uint8blk", "late").lower()
    assert "ommit" in shell.fails("commit", store, ROOT) or "locked" in shell.fails("commit", store, ROOT)


@pytest.mark.parametrize(
    "words",
    [
        ("commit", ""),
        ("newversion", ""),
        ("branch", "", "b"),
        ("rename", "", "a", "b"),
        ("delete", "", "--yes"),
        ("merge", "", ":master"),
        ("new", "instance", "", "keyvalue", "kv"),
    ],
)
def test_an_empty_reference_names_no_version(shell: Shell, tmp_path: Path, words: tuple[str, ...]) -> None:
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder, "--root", ROOT)
    at = words.index("")
    outcome = shell.run(*words[:at], folder, *words[at:])
    assert outcome.code == 2
    assert "it is empty" in outcome.err
    before = shell.ok("log", "show", folder, ROOT)
    assert len(before.splitlines()) == 2  # the repo and its root


def test_a_file_or_a_url_is_no_store(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "stack.tif"
    file.touch()
    assert f"{file} is a file" in shell.fails("new", "repo", file)
    assert f"{file} is a file" in shell.fails("serve", file, "--port", 0, "--workers", 1)
    assert "is a URL" in shell.fails("new", "repo", "s3://bucket/store")


def test_a_missing_store_is_not_made_by_mistake(shell: Shell, tmp_path: Path) -> None:
    for words in (("repos",), ("commit", "x"), ("log", "show", "x"), ("verify",)):
        command, rest = (words[:2], words[2:]) if words[0] == "log" else (words[:1], words[1:])
        assert "no store at" in shell.fails(*command, tmp_path / "typo", *rest)
    assert not (tmp_path / "typo").exists()


def test_a_foreign_folder_is_left_alone(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    shell.fails("new", "repo", tmp_path / "photos")
    shell.fails("serve", tmp_path / "photos", "--port", 0)
    assert [item.name for item in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_deleting_asks(shell: Shell, tmp_path: Path) -> None:
    shell.ok("new", "repo", tmp_path / "store", "--root", ROOT)
    outcome = shell.run("delete", tmp_path / "store", ROOT)
    assert outcome.code == 2
    assert "--yes" in outcome.err
    assert ROOT in shell.ok("repos", tmp_path / "store")


def test_what_is_deleted_is_named_in_full(shell: Shell, store: str) -> None:
    shell.ok("new", "repo", store, "--root", ROOT, "--alias", "fly")
    shell.ok("new", "instance", store, ROOT, "keyvalue", "kv")
    named = f"repo {ROOT} (fly)"
    assert named in shell.run("delete", store, "2").err
    assert named in shell.run("delete", store, "2", "kv", "--yes").err
    assert named in shell.run("delete", store, "2", "--yes").err
    assert shell.run("repos", store).out == ""


def test_a_served_store_is_read_but_not_written_by_path(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with shell.server(folder) as url:
        shell.ok("new", "repo", url, "--root", ROOT)
        assert ROOT in shell.ok("repos", folder)
        assert url in shell.fails("commit", folder, ROOT)
        shell.fails("serve", folder, "--port", 0)
        for command in (("log", "show", url, ROOT), ("verify", url)):
            assert "path" in shell.fails(*command)
    assert shell.ok("commit", folder, ROOT) == ROOT


def test_a_taken_port_is_named(shell: Shell, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = shell.run("serve", tmp_path / "store", "--port", port)
    assert outcome.code == 1
    assert f"port {port}" in outcome.err.strip().splitlines()[-1]


def test_a_silent_server_is_named(shell: Shell) -> None:
    with socket.socket() as deaf:  # bound, so that nobody else takes the port
        deaf.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        assert f"no answer from {url}" in shell.fails("repos", url)


class Stranger(BaseHTTPRequestHandler):
    """Answers everything with a web page that says 501."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_an_address_that_is_no_store_is_named(shell: Shell, tmp_path: Path) -> None:
    with shell.server(tmp_path / "store") as url:
        assert f"{url}/api/api/repos/info has status 404" in shell.fails("repos", f"{url}/api")
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        line = shell.fails("repos", url)
        other.shutdown()
    assert f"is {url} a DVID or dvidzarr server" in line
    assert "<" not in line


def test_the_admin_token_is_sent(shell: Shell, tmp_path: Path) -> None:
    with shell.server(tmp_path / "store", DVID_ADMIN_TOKEN="secret") as url:
        assert "admin" in shell.fails("new", "repo", url)
        assert shell.ok("new", "repo", url, "--root", ROOT, DVID_ADMIN_TOKEN="secret") == ROOT


def test_read_only_serving(shell: Shell, tmp_path: Path) -> None:
    shell.ok("new", "repo", tmp_path / "store", "--root", ROOT)
    with shell.server(tmp_path / "store", "--read-only") as url:
        assert ROOT in shell.ok("repos", url)
        shell.fails("commit", url, ROOT)


def test_the_log_names_who_did_what(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder, "--root", ROOT, USER="ada")
    shell.ok("new", "instance", folder, ROOT, "uint8blk", "gray")
    lines = shell.ok("log", "show", folder, ROOT).splitlines()
    assert any("ada" in line and "dvidzarr" in line for line in lines)
    (last,) = shell.ok("log", "show", folder, ROOT, "--tail", 1, "--json").splitlines()
    record = json.loads(last)
    assert record["kind"] == "instance"
    assert record["sequence"] > 0
    assert f"{ROOT} has no instance 'absent'" in shell.fails("log", "show", folder, ROOT, "absent")


def test_config_shows_where_values_come_from(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[server]\nport = 8123\n[storage]\ndurability = "fast"\n')
    text = shell.ok("config", "show", "--config", file, DVIDZARR_SERVER_PORT="8124")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()}
    assert rows["server.port"] == ["8124", "environment"]
    assert rows["storage.durability"] == ['"fast"', str(file)]
    assert rows["server.host"] == ['"127.0.0.1"', "default"]
    file.write_text("[server]\nprot = 1\n")
    assert "server.prot" in shell.fails("config", "show", "--config", file)
