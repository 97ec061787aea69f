"""Zarr v3 metadata documents as JSON, without importing zarr. Source: Zarr core v3 and OME-NGFF 0.5 specifications."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from dvidzarr.storage.codecs import ChunkCodec


def array_document(shape: Sequence[int], codec: ChunkCodec, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the `zarr.json` of an array with axes (z, y, x)."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": np.dtype(codec.dtype).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(codec.shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codec.metadata(),
        "dimension_names": ["z", "y", "x"],
        "attributes": attributes,
    }


def group_document(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the `zarr.json` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


_UNITS = {
    "nanometers": "nanometer",
    "micrometers": "micrometer",
    "microns": "micrometer",
    "millimeters": "millimeter",
}
"""DVID's usual words for units → those of OME-NGFF."""


def ngff(name: str, voxel_size_xyz: Sequence[float], units_xyz: Sequence[str]) -> dict[str, Any]:
    """Return the `ome` attribute of a group whose array "0" has these voxel sizes."""
    axes: list[dict[str, str]] = []
    for axis, text in zip("zyx", reversed(units_xyz), strict=True):
        unit = _UNITS.get(text.strip().lower())
        axes.append({"name": axis, "type": "space"} | ({"unit": unit} if unit else {}))
    scale = {"type": "scale", "scale": [float(str(np.float32(size))) for size in reversed(voxel_size_xyz)]}
    dataset = {"path": "0", "coordinateTransformations": [scale]}
    return {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": [dataset]}]}


def encoded(document: dict[str, Any]) -> bytes:
    """Return a document as it lies on the store."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2)
