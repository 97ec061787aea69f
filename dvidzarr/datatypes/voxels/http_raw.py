"""`raw` and `isotropic`: boxes of voxels and slices (spec-voxels §6.5)."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dvidzarr.compute.write import BoxWrite
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.datatypes.voxels.http_pieces import row, throttle, voxel_view, within_roi
from dvidzarr.datatypes.voxels.jpegblocks import lossy
from dvidzarr.datatypes.voxels.slices import (
    MAX_PICTURE_BYTES,
    Samples,
    isotropic_geometry,
    parse_format,
    slice_image,
    volume_jpeg,
)
from dvidzarr.http.body import receive_exact
from dvidzarr.http.endpoint import Call
from dvidzarr.http.params import Geometry, Shape, block_refusal, parse_geometry, parse_shape
from dvidzarr.http.pump import PIECES, pumped
from dvidzarr.http.response import Response
from dvidzarr.http.responses import empty, octets

if TYPE_CHECKING:
    from dvidzarr.core.geometry import Box
    from dvidzarr.datatypes.voxels.view import VoxelView

_WHOLE_BYTES = 4 << 20
"""Up to this size an answer is one body; above it is streamed."""

_INLINE_BYTES = 1 << 20
"""A chunk of up to this size is read sooner than another thread wakes up."""

_FEW_CHUNKS, _FEW_BYTES = 32, 8 << 20
"""No more may be read on the event loop, however quick the last ones were: these may have been absent."""

_SLAB_BYTES = 4 << 20
"""Aim for the slabs that are decoded while the one before is sent: two of them stay in the processor's cache."""

Repack = Callable[[Iterator[memoryview]], Iterator[memoryview]]

Receive = Callable[[Call, int, Callable[[int], str]], Awaitable[np.ndarray]]
"""Receives a body that becomes the given number of bytes; the function words the error if it does not."""


def asked_shape(call: Call) -> Shape:
    """Return the shape that the path names; refuse a path that is too short."""
    keyword = call.parts[0]
    dims, _, _ = call.require(f'"{keyword}" must be followed by shape/size/offset', "dims", "size", "offset")
    return parse_shape(dims)


def asked_geometry(call: Call, shape: Shape) -> Geometry:
    """Return the geometry that the path names."""
    return parse_geometry(shape, call.words["size"], call.words["offset"])


def _limit(call: Call) -> int:
    return call.runtime.settings.limits.max_response_bytes


async def get_voxels(call: Call) -> Response:
    """Answer GET raw and GET isotropic, which differ for planes only."""
    shape = asked_shape(call)
    if shape.is_plane:
        return await get_slice(call, asked_geometry(call, shape))
    with throttle(call):
        return await _get_volume(call, asked_geometry(call, shape))


async def get_slice(call: Call, asked: Geometry, samples: Samples | None = None) -> Response:
    """Answer the picture of a plane, from the instance's own samples or others."""
    view = await voxel_view(call)
    itemsize = view.instance.dtype.itemsize
    image = parse_format(call.words.get("format", ""))
    raw = asked
    if call.parts[0] == "isotropic":
        raw = isotropic_geometry(asked, view.instance.settings.voxel_size_xyz)
        asked.check(itemsize, MAX_PICTURE_BYTES)
    raw.check(itemsize, MAX_PICTURE_BYTES)
    view = within_roi(call, view)
    width, height = asked.size
    # voxels, filtered lines and compressed bytes
    async with call.runtime.admit(3 * itemsize * max(width * height, raw.box.volume)):
        body = await call.offload(slice_image, view, raw, (width, height), image, samples)
        return octets(body, image.media_type)


async def _get_volume(call: Call, geometry: Geometry) -> Response:
    view = await voxel_view(call)
    geometry.check(view.instance.dtype.itemsize, _limit(call))
    view = within_roi(call, view)
    # only these two words, not "jpg:90" and its like (§5.4)
    if call.words.get("format") in ("jpg", "jpeg"):
        async with call.runtime.admit(2 * geometry.box.volume):
            return octets(await call.offload(volume_jpeg, view, geometry), "image/jpeg")
    return await send_box(call, view, geometry.box)


async def send_box(call: Call, view: "VoxelView", box: "Box", repack: Repack | None = None) -> Response:
    """Answer the plain bytes of a box; if it is large, piece by piece. `repack` makes other pieces of those."""
    size = box.volume * view.instance.dtype.itemsize
    if size > _WHOLE_BYTES or repack:
        return await _stream_volume(call, view, box, size, repack)
    # a hop to the pool costs more than one small chunk takes; a region must be read from the store
    grid = view.instance.chunk
    chunk_bytes = math.prod(grid) * view.instance.dtype.itemsize
    light = chunk_bytes <= _INLINE_BYTES and view.roi is None and view.is_ready
    if light and box.only_chunk(grid):
        return octets(_bytes(view.read(box, shared=True)))
    count = box.chunks(grid).count
    light = light and count <= min(_FEW_CHUNKS, _FEW_BYTES // chunk_bytes)
    work = (("read", view.instance.id), count) if light else None
    async with call.runtime.admit(size) if size > _INLINE_BYTES else nullcontext():
        return await pumped(call, _whole(view, box), size, work=work)


def _whole(view: "VoxelView", box: "Box") -> Iterator[memoryview]:
    yield _bytes(view.read(box, shared=True))


def _bytes(array: "np.ndarray[Any, Any]") -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))


async def _stream_volume(
    call: Call, view: "VoxelView", box: "Box", size: int, repack: Repack | None
) -> Response:
    """Send a box slab by slab; the reader resolves it once, so all slabs show one state."""
    dtype, pool = view.instance.dtype, call.runtime.buffers
    cuts = list(box.slabs(view.instance.chunk, _SLAB_BYTES // dtype.itemsize))
    largest = max(cut.volume for cut in cuts)

    def slabs() -> Iterator[memoryview]:
        reader = view.reader(box)
        buffers: list[np.ndarray[Any, Any]] = []
        for number, slab in enumerate(cuts):
            if number < PIECES:
                buffers.append(pool.take(largest * dtype.itemsize).view(dtype))
            out = buffers[number % PIECES][: slab.volume].reshape(slab.shape)
            reader.read(slab, out)
            yield _bytes(out)

    pieces = repack(slabs()) if repack else slabs()
    try:
        async with call.runtime.admit(min(size, PIECES * largest * dtype.itemsize)):
            return await pumped(call, pieces, None if repack else size)
    finally:
        if pool.held:
            asyncio.get_running_loop().call_later(2 * pool.keep_s, pool.purge)


async def post_voxels(call: Call) -> Response:
    """Answer POST raw: whole blocks only. `mutate` changes nothing that is stored (§6.5)."""
    shape = asked_shape(call)
    if shape.is_plane:
        raise InvalidInputError("DVID does not permit 2d mutations, only 3d block-aligned stores")
    with throttle(call):
        return await post_box(call, asked_geometry(call, shape), receive_exact)


async def post_box(
    call: Call, geometry: Geometry, receive: Receive, noun: str = "voxels", copies: int = 1
) -> Response:
    """Store the voxels of a block-aligned box.

    Parameters
    ----------
    receive
        Gets the body; it needs memory for `copies` times the box.
    noun
        What the data are, in messages.
    """
    view = await voxel_view(call)
    instance, box = view.instance, geometry.box
    geometry.check(instance.dtype.itemsize, call.runtime.settings.limits.max_request_bytes)
    size = box.volume * instance.dtype.itemsize

    def wrong_length(count: int) -> str:
        return f"{noun} data was {count} bytes, expected {size} bytes for {geometry}"

    async with call.runtime.admit(copies * size):
        body = await receive(call, size, wrong_length)
        view = within_roi(call, view)
        if not box.is_aligned(instance.chunk):
            raise InvalidInputError(block_refusal("cannot store voxels", box))
        write = BoxWrite(box, body.view(instance.dtype).reshape(box.shape), call.author)
        if view.roi is None and box.only_chunk(instance.chunk):
            key = ("voxels", instance.id, view.version.id, view.overrule)
            await call.runtime.together(key, partial(_write_all, view), write)
        else:
            await call.offload(_write_all, view, [write])
    return empty()


def _write_all(view: "VoxelView", writes: list[BoxWrite]) -> None:
    if view.instance.compression == "jpeg":
        writes = [replace(write, voxels=lossy(write.voxels, view.instance.chunk)) for write in writes]
    view.write_all(writes)


async def refuse_isotropic_post(_call: Call) -> Response:
    """Answer POST isotropic."""
    raise InvalidInputError("can only POST 'raw' not 'isotropic' images")


_GEOMETRY = ("{dims?}", "{size?}", "{offset?}", "{format?}")

ROWS = (
    row(("GET",), ("raw", *_GEOMETRY), get_voxels, "getVoxelsRaw", "read"),
    row(("POST",), ("raw", *_GEOMETRY), post_voxels, "postVoxelsRaw", "write"),
    row(("GET",), ("isotropic", *_GEOMETRY), get_voxels, "getVoxelsIsotropic", "read"),
    row(("POST",), ("isotropic", *_GEOMETRY), refuse_isotropic_post, "postVoxelsIsotropic", "write"),
)
