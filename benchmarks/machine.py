"""What a figure depends on besides the code: the machine, its load, the libraries."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter

_PACKAGES = ("aiohttp", "dask", "numcodecs", "numpy", "tensorstore", "uvloop", "zarr", "zarrs")
_CALIBRATION_BYTES = 64 << 20


def facts(folder: Path) -> dict[str, object]:
    """Return what to keep beside figures that were measured below a folder."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "file system": _file_system(folder),
        "packages": {name: _installed(name) for name in _PACKAGES},
        "load": load(),
        "copy 64 MiB ms": round(calibration_ms(), 1),
    }


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def calibration_ms() -> float:
    """Return the time to copy 64 MiB: it rises when others use the machine."""
    times = []
    for _ in range(5):
        start = perf_counter()
        bytes(bytearray(_CALIBRATION_BYTES))
        times.append(perf_counter() - start)
    return median(times) * 1e3


def commit(checkout: Path = Path(__file__).parents[1]) -> str:
    """Return the commit of the checkout, with a plus sign if files differ from it; "" outside a repository."""
    words = ("git", "-C", str(checkout), "describe", "--always", "--dirty=+")
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _file_system(folder: Path) -> str:
    """Return the type of the file system: on tmpfs syncing costs nothing."""
    best, kind = "", "unknown"
    mounts = Path("/proc/self/mounts")
    if not mounts.is_file():
        return kind
    for line in mounts.read_text().splitlines():
        _, point, this, *_ = line.split(" ")
        if Path(point) in (folder.resolve(), *folder.resolve().parents) and len(point) >= len(best):
            best, kind = point, this
    return kind


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
