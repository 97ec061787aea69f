"""A store with grayscale in two versions, served for a client that somebody else wrote."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

import dvidzarr
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import Settings
from dvidzarr.server.app import running
from dvidzarr.server.logs import logging_to

BOX = Box((64, 128, 64), (128, 256, 256))
"""Where the voxels lie, (z, y, x); a multiple of 64, as blocks of JPEG are for Neuroglancer."""

VOXEL_SIZE_NM = (8.0, 8.0, 8.0)
INSTANCES: Mapping[str, Mapping[str, object]] = {
    "raw": {"Compression": "lz4", "BlockSize": "32,32,32", "VoxelSize": "8,8,8"},
    "jpeg": {"Compression": "jpeg", "BlockSize": "64,64,64", "VoxelSize": "8,8,8"},
}

LABELS = "cells"

IDS = (7, (1 << 40) + 3, (1 << 53) + 1, (1 << 64) - 2)
"""Labels of the cells; the last two are no numbers to JavaScript."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and what is in it.

    Attributes
    ----------
    root, child
        The locked root version and its open child on master, which was edited.
    volumes
        Voxels of `BOX`, (z, y, x), by version; both images hold the same.
    labels
        The same of the instance `LABELS`.
    """

    url: str
    root: str
    child: str
    volumes: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    log: io.BytesIO

    def requests(self) -> list[tuple[str, int]]:
        """Return path and status of each request so far."""
        lines = map(orjson.loads, self.log.getvalue().splitlines())
        return [(line["path"], line["status"]) for line in lines if line["logger"] == "dvidzarr.access"]


def original() -> np.ndarray:
    """Return a volume without any symmetry: a picture mirrored, turned or of another plane differs."""
    z, y, x = np.mgrid[0:64, 0:128, 0:192]
    volume = (90 + 50 * np.sin(x / 17) + 30 * np.cos(y / 11 + z / 9)).astype(np.uint8)
    volume[:, 16:40, 32:96] = 220
    volume[8:40, 88:104, 8:24] = 3
    return volume


def cells() -> np.ndarray:
    """Return labels without any symmetry, with background between them."""
    z, y, x = np.mgrid[0:64, 0:128, 0:192]
    volume = np.zeros(x.shape, np.uint64)
    volume[(x - 60) ** 2 + (y - 50) ** 2 + (z - 20) ** 2 < 40**2] = IDS[0]
    volume[:, 70:120, 20:50] = IDS[1]
    volume[(x > 110) & (y < 90) & (x + y < 220)] = IDS[2]
    volume[5:60, 95:115, 130:180] = IDS[3]
    return volume


def divided(volume: np.ndarray) -> np.ndarray:
    """Return labels in which a part of a cell belongs to another."""
    copy = volume.copy()
    copy[:, 30:60][copy[:, 30:60] == IDS[0]] = IDS[3]
    return copy


def edited(volume: np.ndarray) -> np.ndarray:
    """Return a copy with another value in part of it."""
    copy = volume.copy()
    copy[10:50, 60:110, 120:170] = 255 - copy[10:50, 60:110, 120:170]
    return copy


@contextmanager
def serving(folder: Path, *cors_domains: str) -> Iterator[Served]:
    """Serve a new store; web pages of these origins may read it."""
    settings = Settings.load(overrides={"server.cors_domains": list(cors_domains)})
    log = io.BytesIO()
    with dvidzarr.open(folder) as catalog, logging_to(log), running(catalog, settings) as url:
        repo = catalog.create_repo(alias="gray", description="two versions")
        root, volume = repo.dag.root.uuid, original()
        for name, config in INSTANCES.items():
            repo.create_instance("uint8blk", name, config, root).at(root).write(BOX, volume)
        labels = repo.create_instance("labelblk", LABELS, {"BlockSize": "32,32,32"}, root)
        labels.at(root).write(BOX, cells())
        repo.commit(root)
        child = repo.new_version(root).uuid
        for name in INSTANCES:
            repo.instance(name).at(child).write(BOX, edited(volume))
        labels.at(child).write(BOX, divided(cells()))
        images = {root: volume, child: edited(volume)}
        yield Served(url, root, child, images, {root: cells(), child: divided(cells())}, log)
