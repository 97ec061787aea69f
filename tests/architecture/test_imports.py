"""Start-up is light: what is heavy is loaded by who uses it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMPORT_LIMIT_S = 0.3
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
    return set(
        run(f"import sys, {module}; print(' '.join({{n.partition('.')[0] for n in sys.modules}}))").split()
    )


def test_the_package_loads_nothing_heavy() -> None:
    assert loaded_by("dvidzarr") & HEAVY == set()


def test_the_package_loads_quickly() -> None:
    code = "import time; t = time.perf_counter(); import dvidzarr; print(time.perf_counter() - t)"
    assert min(float(run(code)) for _ in range(5)) < IMPORT_LIMIT_S


def test_the_server_starts_without_the_libraries_of_batch_work() -> None:
    assert loaded_by("dvidzarr.server.app") & HEAVY == set()


def test_the_command_line_loads_only_the_command_that_runs() -> None:
    assert loaded_by("dvidzarr.cli.main") & (HEAVY - {"rich"}) == set()
