"""The npm package `dvid` (what dvid-console is built on), unmodified: lists, creates and reads."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clients.served import BOX, Served

PACKAGE = "dvid@1.1.0"
SESSION = Path(__file__).with_name("npm_session.cjs")
MISSING = [name for name in ("node", "npm") if shutil.which(name) is None]

pytestmark = [
    pytest.mark.clients,
    pytest.mark.slow,  # fetches a package
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

OFFSET, SHAPE = (70, 215, 75), (3, 5, 7)
"""Voxels to read, x, y, z and z, y, x; all are below 128, because the package decodes each body as UTF-8."""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of node modules with the package in it."""
    folder = tmp_path_factory.mktemp("npm")
    command = [
        "npm",
        "install",
        "--ignore-scripts",
        "--fetch-retries=1",
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(folder),
        PACKAGE,
    ]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm install {PACKAGE} took longer than a minute")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {PACKAGE}: {done.stderr.strip()[-300:]}")
    return folder / "node_modules"


@pytest.fixture(scope="module")
def report(modules: Path, served: Served) -> dict[str, Any]:
    """Return what the package got to see."""
    size, offset = ("_".join(map(str, numbers)) for numbers in (SHAPE[::-1], OFFSET))
    raw = f"raw/raw/0_1_2/{size}/{offset}"
    job = {"host": served.url, "root": served.root, "child": served.child, "raw": raw}
    done = subprocess.run(
        ["node", str(SESSION), json.dumps(job)],
        env=os.environ | {"NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_lists_repos_versions_and_instances(served: Served, report: dict[str, Any]) -> None:
    repos = report["reposBefore"]
    assert list(repos) == [served.root]
    repo = repos[served.root]
    assert (repo["Root"], repo["Alias"]) == (served.root, "gray")
    assert set(repo["DAG"]["Nodes"]) == {served.root, served.child}
    assert set(repo["DataInstances"]) == {"raw", "jpeg", "cells"}
    assert report["branch"] == [served.child, served.root]
    assert report["commit"] == {"Locked": True}


def test_describes_the_server(report: dict[str, Any]) -> None:
    shown_by_console = {
        "DVID Version",
        "Datastore Version",
        "Cores",
        "Maximum Cores",
        "Server uptime",
        "Storage backend",
    }
    assert shown_by_console <= set(report["server"])
    assert "uint8blk" in report["types"]
    assert "uint8blk" in report["compiledTypes"]
    assert {type(number) for number in report["load"].values()} <= {int, float}


def test_creates_a_repo_and_an_instance(report: dict[str, Any]) -> None:
    made = report["made"]
    assert (made["Alias"], made["Description"]) == ("second", "made by npm dvid")
    assert made["DataInstances"]["gray"]["Base"]["TypeName"] == "uint8blk"


def test_reads_info_and_voxels(served: Served, report: dict[str, Any]) -> None:
    assert report["info"]["Extended"]["MinPoint"] == list(BOX.start[::-1])
    start = np.subtract(OFFSET[::-1], BOX.start)
    (z, y, x), (depth, height, width) = start, SHAPE
    wanted = served.volumes[served.child][z : z + depth, y : y + height, x : x + width]
    assert 0 < wanted.min() < wanted.max() < 128
    np.testing.assert_array_equal(report["voxels"], wanted.ravel())


def test_unknown_instance_is_an_error(report: dict[str, Any]) -> None:
    assert report["missing"] == 400
