"""Boxes and slices of labels: `raw`, `isotropic` and `pseudocolor`, with their compressions (spec-voxels §7.4, §7.5)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.datatypes.voxels.http_pieces import throttle, voxel_view, within_roi
from dvidzarr.datatypes.voxels.http_raw import (
    Receive,
    asked_geometry,
    asked_shape,
    get_slice,
    post_box,
    refuse_isotropic_post,
    send_box,
)
from dvidzarr.http.body import receive_exact, receive_small
from dvidzarr.http.endpoint import Call, Endpoint
from dvidzarr.http.params import Geometry, quoted
from dvidzarr.http.response import Response
from dvidzarr.wire.compressedsegmentation import check_sides, encode_segmentation
from dvidzarr.wire.compression import gzip_decode_within, gzip_encode, gzip_packer, lz4_decode, lz4_encode
from dvidzarr.wire.murmur import pseudocolors

_LZ4_LIMIT = 0x7E000000
"""The largest input of an LZ4 block."""

_PACKED_SLACK = 1 << 16
"""Bytes that a compressed body may have beyond twice its content: headers of tiny volumes."""

Encode = Callable[["np.ndarray[Any, Any]"], bytes]


async def get_labels_raw(call: Call) -> Response:
    """Answer GET raw and GET isotropic."""
    shape = asked_shape(call)
    geometry = asked_geometry(call, shape)
    if shape.is_plane:
        return await get_slice(call, geometry)
    with throttle(call):
        return await _get_volume(call, geometry)


async def _get_volume(call: Call, geometry: Geometry) -> Response:
    view = await voxel_view(call)
    size = view.instance.dtype.itemsize
    box = geometry.check(size, call.runtime.settings.limits.max_response_bytes).box
    view = within_roi(call, view)
    asked = call.query.get("compression", "")
    if not asked:
        return await send_box(call, view, box)
    if asked == "gzip":
        return await send_box(call, view, box, _gzipped)
    if asked not in _ENCODERS:
        raise InvalidInputError(f"unknown compression type {quoted(asked)}")
    encode, headers = _ENCODERS[asked]
    if asked == "lz4" and box.volume * size > _LZ4_LIMIT:
        raise InvalidInputError(f"an LZ4 block holds at most {_LZ4_LIMIT} bytes; ask for a smaller volume")
    if asked != "lz4":
        check_sides(box.shape)
    headers = {"Content-Type": "application/octet-stream", **headers}
    kept = view.kept(box, asked)
    if kept is not None:
        return Response(kept, headers=headers)
    async with call.runtime.admit(2 * box.volume * size):
        return Response(await call.offload(view.encoded, box, asked, encode), headers=headers)


def _segmentation_gzip(labels: "np.ndarray[Any, Any]") -> bytes:
    return gzip_encode(encode_segmentation(labels))


_ENCODERS: dict[str, tuple[Encode, dict[str, str]]] = {
    "lz4": (lz4_encode, {}),
    "google": (encode_segmentation, {}),
    "googlegzip": (_segmentation_gzip, {"Content-Encoding": "gzip"}),
}


def _gzipped(pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """Yield a gzip stream of the pieces, as they come."""
    packer = gzip_packer()
    for piece in pieces:
        yield memoryview(packer.compress(piece))
    yield memoryview(packer.flush())


async def post_labels_raw(call: Call) -> Response:
    """Answer POST raw: whole blocks, plain or compressed."""
    shape = asked_shape(call)
    if shape.is_plane:
        raise InvalidInputError("DVID does not permit 2d mutations, only 3d block-aligned stores")
    asked = call.query.get("compression", "")
    if asked not in _RECEIVERS:
        raise InvalidInputError(f"unknown compression type {quoted(asked)}")
    with throttle(call):
        copies = 3 if asked else 1  # the body may be twice its content
        return await post_box(call, asked_geometry(call, shape), _RECEIVERS[asked], "labels", copies)


async def _receive_packed(
    unpack: Callable[[bytes, int], bytes], call: Call, size: int, message: Callable[[int], str]
) -> "np.ndarray[Any, Any]":
    body = await receive_small(call, 2 * size + _PACKED_SLACK)
    plain = await call.offload(unpack, body, size)
    if len(plain) != size:
        raise InvalidInputError(message(len(plain)))
    return np.frombuffer(plain, np.uint8)


_RECEIVERS: dict[str, Receive] = {
    "": receive_exact,
    "lz4": partial(_receive_packed, lz4_decode),
    "gzip": partial(_receive_packed, gzip_decode_within),
}


async def get_pseudocolor(call: Call) -> Response:
    """Answer pseudocolor: a slice in which each label has a colour."""
    shape = asked_shape(call)
    if not shape.is_plane:
        raise InvalidInputError("DVID currently supports only 2d pseudocolor image requests")
    return await get_slice(call, asked_geometry(call, shape), pseudocolors)


_GEOMETRY = ("{dims?}", "{size?}", "{offset?}", "{format?}")

ROWS = (
    Endpoint(("GET",), ("raw", *_GEOMETRY), get_labels_raw, "getVoxelsRaw", "read"),
    Endpoint(("POST",), ("raw", *_GEOMETRY), post_labels_raw, "postVoxelsRaw", "write"),
    Endpoint(("GET",), ("isotropic", *_GEOMETRY), get_labels_raw, "getVoxelsIsotropic", "read"),
    Endpoint(("POST",), ("isotropic", *_GEOMETRY), refuse_isotropic_post, "postVoxelsIsotropic", "write"),
    Endpoint(("GET",), ("pseudocolor", *_GEOMETRY), get_pseudocolor, "getLabelsPseudocolor", "read"),
)
