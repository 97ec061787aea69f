"""`./dev` says what is missing, from any folder, also one with a blank in its path."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("cat", "cksum", "dirname", "env", "grep", "rm", "sh")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "a checkout"
    folder.mkdir()
    shutil.copy(ROOT / "dev", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Folder to be the whole PATH: the tools of every system, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return folder


def dev(checkout: Path, *words: str, path: Path | str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": ""} | ({"PATH": str(path)} if path else {})
    return subprocess.run(
        [str(checkout / "dev"), *words],
        cwd="/",
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def fake_python(tools: Path, script: str, name: str = "python3") -> None:
    place = tools / name
    place.unlink(missing_ok=True)  # never write through a link
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)


def test_help_lists_the_commands(checkout: Path) -> None:
    done = dev(checkout)
    assert done.returncode == 0
    for name in ("setup", "demo", "test", "check", "bench", "clean"):
        assert f"./dev {name}" in done.stdout


def test_unknown_commands_and_ports_are_refused(checkout: Path) -> None:
    assert "unknown command: sevre" in dev(checkout, "sevre").stderr
    for port in ("x", "-1", "123456", "80 80"):
        done = dev(checkout, "demo", port)
        assert done.returncode == 1
        assert f"not a port: {port}" in done.stderr


def test_no_python(checkout: Path, tools: Path) -> None:
    done = dev(checkout, "setup", path=tools)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed and was not found" in done.stderr
    assert not (checkout / ".venv").exists()


def test_only_an_old_python(checkout: Path, tools: Path) -> None:
    fake_python(tools, "exit 1")
    assert "Python 3.11 or newer is needed and was not found" in dev(checkout, "setup", path=tools).stderr


def test_a_python_that_was_built_to_be_fast_is_preferred(checkout: Path, tools: Path, tmp_path: Path) -> None:
    fake_python(tools, 'case "$*" in *CONFIG_ARGS*|*"-m venv"*) exit 1 ;; esac', "python3.12")
    assert f"with {tools}/python3.12" in dev(checkout, "setup", path=tools).stderr
    more = tmp_path / "more tools"
    more.mkdir()
    fake_python(more, 'case "$*" in *"-m venv"*) exit 1 ;; esac')
    assert f"with {more}/python3" in dev(checkout, "setup", path=f"{tools}:{more}").stderr


def test_python_without_venv(checkout: Path, tools: Path) -> None:
    fake_python(tools, f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"')
    done = dev(checkout, "setup", path=tools)
    assert done.returncode == 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt-get install python{version}-venv" in done.stderr
