"""Looking at served layers in Neuroglancer, in a real browser."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.clients import viewer_process
from tests.clients.served import BOX, VOXEL_SIZE_NM, Served

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("neuroglancer", "selenium") if importlib.util.find_spec(name) is None]
MISSING += [] if BROWSER else ["chromium"]
MISSING += [] if shutil.which("chromedriver") else ["chromedriver"]

NEEDS_BROWSER = [
    pytest.mark.clients,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

WIDTH, HEIGHT = 256, 160
PLANE = 20
"""Shown plane, counted from the first of `BOX`; the edit and both boxes of the original are on it."""

PICTURE_S, START_S = 120.0, 240.0
"""How long a picture, and the start of the browser, may take on a busy machine."""

ALPHA = 0.5
"""Weight of a label's colour over the image."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What came out of a browser: pictures (y, x, RGB) by name, and what its console complained about."""

    pictures: Mapping[str, np.ndarray]
    complaints: tuple[str, ...]


def look(
    served: Served,
    layers: Mapping[str, str],
    folder: Path,
    labels: Mapping[str, str] | None = None,
    colors: Mapping[int, str] | None = None,
    complaint: str = "",
) -> Seen:
    """Show each layer (name to `version/instance`) with the middle of `BOX` in the middle of the picture.

    Parameters
    ----------
    labels
        Name of a layer → `version/instance` of labels to put over it.
    colors
        Label → "#rrggbb".
    complaint
        What the console is expected to say: when it has, there is no more waiting for pictures.
    """
    z, y, x = ((a + b) // 2 for a, b in zip(BOX.start, BOX.stop, strict=True))
    job = {
        "server": served.url,
        "browser": BROWSER,
        "folder": str(folder),
        "layers": {name: f"dvid://{served.url}/{path}" for name, path in layers.items()},
        "labels": {name: f"dvid://{served.url}/{path}" for name, path in (labels or {}).items()},
        "colors": {str(label): color for label, color in (colors or {}).items()},
        "alpha": ALPHA,
        "size": [WIDTH, HEIGHT],
        "position": [x, y, z + PLANE - (BOX.stop[0] - BOX.start[0]) // 2 + 0.5],
        "voxel_size_nm": VOXEL_SIZE_NM,
        "complaint": complaint,
        "timeout_s": PICTURE_S,
    }
    patience = START_S + PICTURE_S * len(layers)
    report = in_process_group([sys.executable, viewer_process.__file__], json.dumps(job), patience)
    if "missing" in report:
        pytest.skip(str(report["missing"]))
    # the page's own server has no icon, and refuses a state of the page that another one overtook
    own = ("favicon.ico", "/state/")
    complaints = tuple(line for line in report["complaints"] if not any(name in line for name in own))
    pictures = {name: np.asarray(Image.open(folder / f"{name}.png"))[..., :3] for name in report["shown"]}
    return Seen(pictures, complaints)


def in_process_group(command: list[str], job: str, patience: float) -> dict[str, Any]:
    """Run a program that starts others; nothing of them is left when this returns."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(job, timeout=patience)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


def on_black(plane: np.ndarray) -> np.ndarray:
    """Return the picture of a plane (y, x, …), one voxel per pixel, on black."""
    top, left = (HEIGHT - plane.shape[0]) // 2, (WIDTH - plane.shape[1]) // 2
    picture = np.zeros((HEIGHT, WIDTH, *plane.shape[2:]), plane.dtype)
    picture[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return picture
