"""Start-up is light: what is heavy is loaded by who uses it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "zarr",
    "dask",
    "distributed",
    "xarray",
    "aiohttp",
    "numba",
    "h5py",
    "tifffile",
    "PIL",
    "httpx",
    "rich",
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def loaded_by(module: str) -> set[str]:
    """Return the packages that an import loads, without those that the interpreter starts with."""
    code = f"import sys; before = set(sys.modules); import {module}; print(*set(sys.modules) - before)"
    return {name.partition(".")[0] for name in run(code).split()}


def test_the_package_loads_nothing_of_others_before_it_is_used() -> None:
    assert loaded_by("dvidzarr") - sys.stdlib_module_names == {"dvidzarr"}


def test_the_server_starts_without_the_libraries_of_batch_work() -> None:
    assert loaded_by("dvidzarr.server.app") & HEAVY == set()


def test_the_command_line_loads_only_the_command_that_runs() -> None:
    assert loaded_by("dvidzarr.cli.main") & (HEAVY - {"rich"}) == set()
