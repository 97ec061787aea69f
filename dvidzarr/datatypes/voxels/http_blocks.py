"""`blocks`, `subvolblocks` and `specificblocks`: whole blocks, bare or framed (spec-voxels §6.7, §6.8)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import ZYX, ChunkSpan
from dvidzarr.datatypes.voxels.http_pieces import row, throttle, voxel_view
from dvidzarr.datatypes.voxels.jpegblocks import encode_block, lossy
from dvidzarr.http.body import receive_at_least
from dvidzarr.http.endpoint import Call
from dvidzarr.http.params import block_refusal, check_payload, parse_geometry, parse_int, quoted
from dvidzarr.http.pump import gathered
from dvidzarr.http.response import Response
from dvidzarr.http.responses import empty, octets
from dvidzarr.wire.blockstream import frame_head
from dvidzarr.wire.compression import gzip_encode, lz4_prefix, lz4_prefixed_encode, snappy_encode

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from dvidzarr.datatypes.voxels.view import VoxelView

Block = tuple[ZYX, "np.ndarray[Any, Any] | None"]
Encoder = Callable[["np.ndarray[Any, Any]"], "Buffer"]

_COORDS = 3

_LIGHT_BYTES = 1 << 20
"""A block of up to this size is sent as it is stored sooner than another thread wakes up."""


@dataclass(frozen=True, slots=True)
class Form:
    """How blocks are sent.

    Attributes
    ----------
    blocks
        Gives the blocks of a span, None where they are absent.
    parts
        Makes the bytes of a block, nothing of an absent one.
    light
        Tells whether that costs less for a block than a hop to the pool.
    """

    blocks: Callable[[ChunkSpan], Iterable[tuple[ZYX, Any]]]
    parts: Callable[[Any], Iterable["Buffer"]]
    light: Callable[[ChunkSpan], bool] = lambda _span: False


def _form(call: Call, view: "VoxelView") -> Form:
    """Return the form of framed blocks that the query asks for."""
    encode = _payload_encoder(view.instance.compression.lower(), call.query.get("compression", ""))
    if encode is lz4_prefixed_encode:
        size = _block_bytes(view)
        return Form(
            view.lz4_blocks,
            partial(_lz4_frame, lz4_prefix(size)),
            light=lambda _span: size <= _LIGHT_BYTES and view.is_ready,
        )
    if encode is encode_block:
        return Form(
            lambda span: view.encoded_blocks(span, "jpeg", encode_block),
            framer(memoryview),
            light=lambda span: view.kept(span.box(view.instance.chunk), "jpeg") is not None,
        )
    return Form(view.blocks, framer(encode))


def _lz4_frame(prefix: bytes, block: "tuple[ZYX, Buffer | None]") -> Iterable["Buffer"]:
    coord, packed = block
    if packed is None:
        return ()
    return frame_head(coord, len(prefix) + memoryview(packed).nbytes), prefix, packed


def _payload_encoder(stored: str, asked: str) -> Encoder:
    """Return how a block becomes a payload.

    Parameters
    ----------
    stored : the instance's `Compression`, which is the default form.
    asked : the `compression` query value.
    """
    kind, _, level = stored.partition(":")
    if asked == "uncompressed":
        return _STORED_FORMS["none"]
    if asked == "jpeg" and kind != "jpeg":
        return refusing(f"can't encode JPEG: expected internal block data to be JPEG, was {stored} instead")
    if asked not in ("", "jpeg"):
        raise InvalidInputError(f"don't understand 'compression' query string value: {quoted(asked)[1:-1]}")
    if kind == "gzip" and level:
        return partial(gzip_encode, level=int(level))
    return _STORED_FORMS[kind]


def refusing(message: str) -> Encoder:
    """Return an encoder that refuses the first block there is: absent ones are nothing wrong, as in DVID."""

    def refuse(_block: "np.ndarray[Any, Any]") -> bytes:
        raise InvalidInputError(message)

    return refuse


_STORED_FORMS: dict[str, Encoder] = {
    "none": memoryview,
    "lz4": lz4_prefixed_encode,
    "snappy": snappy_encode,
    "gzip": gzip_encode,
    "jpeg": encode_block,
}


async def get_blocks(call: Call) -> Response:
    """Answer GET blocks: an x-run of bare blocks; absent ones are bytes of Background (§4.2)."""
    view = await voxel_view(call)
    coord, count = _run(call)
    if count < 0:
        raise InvalidInputError(f"span-x must not be negative, it is {count}")
    size = count * _block_bytes(view)
    check_payload(size, call.runtime.settings.limits.max_response_bytes)
    if not count:
        return octets(b"")
    absent = bytes([view.instance.settings.background]) * _block_bytes(view)

    def bare(block: Block) -> Iterable["Buffer"]:
        return (absent if block[1] is None else np.ascontiguousarray(block[1]),)

    return await answer_blocks(call, Form(view.blocks, bare), [_run_span(coord, count)], size)


async def post_blocks(call: Call) -> Response:
    """Answer POST blocks: an x-run of bare blocks, all or nothing; extents do not grow (§6.8)."""
    view = await voxel_view(call)
    coord, count = _run(call)
    short = "block data ceased before all block data read"
    if count <= 0:
        raise InvalidInputError(short)
    span = _run_span(coord, count).check()
    size = count * _block_bytes(view)
    async with call.runtime.admit(size):
        body = await receive_at_least(call, size, short)
        blocks = body.view(view.instance.dtype).reshape(count, *view.instance.chunk)
        await call.offload(_write, view, span, blocks, call)
    return empty()


def _write(view: "VoxelView", span: ChunkSpan, blocks: "np.ndarray[Any, Any]", call: Call) -> None:
    if view.instance.compression == "jpeg":
        blocks = np.stack([lossy(block, view.instance.chunk) for block in blocks])
    view.write_blocks(span.coords(), blocks, author=call.author)


def _run(call: Call) -> tuple[ZYX, int]:
    """Return the first block (z, y, x) and the number of blocks along x."""
    point, count = call.require('"blocks" must be followed by block-coord/span-x', "coord", "span")
    parts = point.split("_")
    if len(parts) != _COORDS:
        raise InvalidInputError(f"cannot convert {quoted(point)} into a ChunkPoint3d")
    x, y, z = (parse_int(part.strip()) for part in parts)
    return (z, y, x), parse_int(count, 64, "Atoi")


def _run_span(coord: ZYX, count: int) -> ChunkSpan:
    z, y, x = coord
    return ChunkSpan(coord, (z + 1, y + 1, x + count))


def _block_bytes(view: "VoxelView") -> int:
    z, y, x = view.instance.chunk
    return z * y * x * view.instance.dtype.itemsize


async def get_subvolblocks(call: Call) -> Response:
    """Answer GET subvolblocks: the blocks of an aligned box, by z, y, x."""
    with throttle(call):
        view = await voxel_view(call)
        span = aligned_span(call, view)
        return await answer_blocks(call, _form(call, view), [span])


def aligned_span(call: Call, view: "VoxelView") -> ChunkSpan:
    """Return the blocks of the `size` and `offset` in the path, which are voxels."""
    size, offset = call.require(f'"{call.parts[0]}" must be followed by size/offset', "size", "offset")
    limit = call.runtime.settings.limits.max_response_bytes
    box = parse_geometry("vol", size, offset).check(view.instance.dtype.itemsize, limit).box
    if not box.is_aligned(view.instance.chunk):
        raise InvalidInputError(block_refusal("cannot use labels via 'block' endpoint", box))
    return box.chunks(view.instance.chunk)


async def get_specificblocks(call: Call) -> Response:
    """Answer GET specificblocks: listed blocks, in the order of the list; absent ones are left out."""
    view = await voxel_view(call)
    form = _form(call, view)  # refuses what `compression` asks for even if no block is listed
    coords = _listed(call.query.get("blocks", ""))
    # DVID only warms its cache for prefetch=on and answers nothing
    if not coords or call.query.get("prefetch") in ("on", "true"):
        return octets(b"")
    return await answer_blocks(call, form, [_run_span(coord, 1) for coord in coords])


def _listed(text: str) -> list[ZYX]:
    """Parse `x,y,z,x,y,z…`; no blanks."""
    parts = text.split(",") if text else []
    if len(parts) % _COORDS:
        raise InvalidInputError("block query string should be three coordinates per block")
    numbers = [parse_int(part, 32, "Atoi") for part in parts]
    return list(zip(numbers[2::3], numbers[1::3], numbers[::3], strict=True))


def framer(encode: Encoder) -> Callable[[Block], Iterable["Buffer"]]:
    """Return what makes a frame of a block, nothing of an absent one."""

    def frame(block: Block) -> Iterable["Buffer"]:
        coord, voxels = block
        if voxels is None:
            return ()
        payload = encode(np.ascontiguousarray(voxels))
        return frame_head(coord, memoryview(payload).nbytes), payload

    return frame


async def answer_blocks(
    call: Call, form: Form, spans: Sequence[ChunkSpan], length: int | None = None
) -> Response:
    """Send the blocks of some spans: whole if they are few, else piece by piece as they are decoded."""
    found = chain.from_iterable(map(form.blocks, spans))  # lazy: resolved on the pool
    pieces = chain.from_iterable(map(form.parts, found))
    if len(spans) == 1 and spans[0].count == 1 and form.light(spans[0]):
        return octets([memoryview(piece) for piece in pieces])
    return await gathered(call, pieces, length=length)


ROWS = (
    row(("GET",), ("blocks", "{coord?}", "{span?}"), get_blocks, "getVoxelsBlocks", "read"),
    row(("POST",), ("blocks", "{coord?}", "{span?}"), post_blocks, "postVoxelsBlocks", "write"),
    row(
        ("GET",), ("subvolblocks", "{size?}", "{offset?}"), get_subvolblocks, "getVoxelsSubvolblocks", "read"
    ),
    row(("GET",), ("specificblocks",), get_specificblocks, "getVoxelsSpecificblocks", "read"),
)
