"""Regions of interest over HTTP (spec-roi §3)."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

import orjson

from dvidzarr.core.errors import DvidzarrError, InvalidInputError
from dvidzarr.core.geometry import Box
from dvidzarr.datatypes.roi.spans import Spans
from dvidzarr.datatypes.roi.tuples import parse_tuples
from dvidzarr.http.body import receive_small
from dvidzarr.http.endpoint import Call, Endpoint, EndpointTable
from dvidzarr.http.instancehelp import get_help
from dvidzarr.http.params import Geometry, parse_geometry, parse_int, parse_shape
from dvidzarr.http.pump import gathered
from dvidzarr.http.repojson import instance_json
from dvidzarr.http.response import Response
from dvidzarr.http.responses import empty, json_value, octets

if TYPE_CHECKING:
    from dvidzarr.datatypes.roi.model import RoiView
    from dvidzarr.datatypes.roi.partition import XYZ, Partition, Subvolume

_JSON = "application/json"
_PIECE = 1 << 20
"""Voxels of a mask, or spans, that are worked on at once."""

_BOXES = 1000
_INDENT = "    "
_REFUSALS: Mapping[str, str] = {
    "mask": "ROI mask only supports GET",
    "ptquery": "ptquery requires POST with list of points",
    "partition": "partition only supports GET request",
}


_ANY_VERB = frozenset({"help", "info"})


async def do_nothing(_call: Call) -> Response:
    """Answer verbs that mean nothing, as DVID does: 200, and nothing is done."""
    return empty()


_IDLE = {
    keyword: Endpoint((), (keyword,), do_nothing, operation, "read")
    for keyword, operation in (("roi", "otherRoi"), ("ptquery", "otherRoiPtquery"))
}
"""For the verbs without endpoint of keywords that take any, but for GET."""


class RoiTable(EndpointTable):
    """The table, with DVID's words for wrong verbs; for some keywords no verb is wrong (spec-roi §3)."""

    def find(self, method: str, keyword: str) -> Endpoint | None:
        """Return the endpoint for a verb and keyword, None if there is none."""
        row = self.exact.get((keyword, method))
        if row is None and keyword in _ANY_VERB:
            return self.first[keyword]
        return _IDLE.get(keyword) if row is None and method != "GET" else row

    def refuse(self, call: Call, keyword: str) -> DvidzarrError:
        """Return the error for a verb and keyword without endpoint."""
        if keyword in _REFUSALS:
            return InvalidInputError(_REFUSALS[keyword])
        return super().refuse(call, keyword)


def _view(call: Call) -> "RoiView":
    return cast("RoiView", call.view)


async def get_info(call: Call) -> Response:
    """Answer info."""
    return json_value(await call.offload(instance_json, call.instance, call.version))


async def get_roi(call: Call) -> Response:
    """Answer GET roi: all spans, sorted."""
    spans = await call.offload(_view(call).resolve)
    return await gathered(call, _spans_json(spans), _JSON)


def _spans_json(spans: Spans) -> Iterator[bytes]:
    step = _PIECE // 16
    yield b"["
    for start in range(0, len(spans), step):
        part = orjson.dumps(spans.rows[start : start + step], option=orjson.OPT_SERIALIZE_NUMPY)
        yield b"," + part[1:-1] if start else part[1:-1]
    yield b"]"


async def post_roi(call: Call) -> Response:
    """Answer POST roi: these spans replace those of the version; if one is refused, nothing changes."""
    await call.offload(_replace, call, await receive_small(call))
    return empty()


def _replace(call: Call, body: bytes) -> None:
    try:
        rows = parse_tuples(body, 4)
    except InvalidInputError as error:
        raise InvalidInputError(f"Error trying to parse POSTed JSON: {error}") from None
    _view(call).replace(rows, call.author)


async def delete_roi(call: Call) -> Response:
    """Answer DELETE roi: the version shows no spans any more."""
    await call.offload(_view(call).clear, call.author)
    return empty()


async def get_mask(call: Call) -> Response:
    """Answer mask: a byte per voxel, 1 inside."""
    words = call.require('"mask" must be followed by shape/size/offset', "dims", "size", "offset")
    refusal = InvalidInputError("Currently only 3d masks ('0_1_2' shape) is supported")
    if words[0].lower() == "arb" or (shape := parse_shape(words[0])).is_plane:
        raise refusal
    geometry = parse_geometry(shape, *words[1:])
    if 0 in geometry.size:
        return octets(b"")
    box = _limited(call, geometry).box
    spans = await call.offload(_view(call).resolve)
    block = _view(call).instance.block
    masks = (memoryview(spans.mask(part, block)).cast("B") for part in _cut(box, _PIECE))
    return await gathered(call, map(bytes, masks), length=box.volume)


def _limited(call: Call, geometry: Geometry) -> Geometry:
    return geometry.check(1, call.runtime.settings.limits.max_response_bytes)


def _cut(box: Box, most: int) -> Iterator[Box]:
    """Yield boxes of at most so many voxels that tile a box, in the order of its voxels, x fastest."""
    depth, height, width = box.shape
    across = min(width, most)
    rows = min(height, most // across) if across == width else 1
    planes = min(depth, most // (across * rows)) if rows == height else 1
    for z in range(box.start[0], box.stop[0], planes):
        for y in range(box.start[1], box.stop[1], rows):
            for x in range(box.start[2], box.stop[2], across):
                stop = (z + planes, y + rows, x + across)
                yield Box.of((z, y, x), map(min, stop, box.stop))


async def post_ptquery(call: Call) -> Response:
    """Answer POST ptquery: for each voxel x, y, z whether it is inside; works on locked versions, too."""
    body = await call.offload(_answers, _view(call), await receive_small(call))
    return octets(body, _JSON)


def _answers(view: "RoiView", body: bytes) -> bytes:
    points = parse_tuples(body, 3)[:, ::-1]
    return orjson.dumps(view.contains(points), option=orjson.OPT_SERIALIZE_NUMPY)


async def get_partition(call: Call) -> Response:
    """Answer partition: boxes of blocks that cover the region."""
    asked = call.query.get("batchsize", "")
    try:
        batchsize = parse_int(asked, 64, "Atoi")
    except InvalidInputError as error:
        raise InvalidInputError(f"Error reading batchsize query string: {error}") from None
    signed = (batchsize + (1 << 31)) % (1 << 32) - (1 << 31)  # DVID keeps the low 32 bits
    optimized = call.query.get("optimized") in ("true", "on")
    found = await call.offload(lambda: _view(call).partition(signed, optimized=optimized))
    return await gathered(call, _partition_json(found), _JSON)


def _partition_json(found: "Partition") -> Iterator[bytes]:
    boxes = found.subvolumes
    yield (
        f'{{\n    "NumTotalBlocks": {found.total},\n    "NumActiveBlocks": {found.active},\n'
        f'    "NumSubvolumes": {len(boxes)},\n    "ROI": {{\n'
        f'        "MinChunk": {_triple(found.min_chunk, 2)},\n        "MaxChunk": {_triple(found.max_chunk, 2)}\n'
        f'    }},\n    "Subvolumes": ['
    ).encode()
    for start in range(0, len(boxes), _BOXES):
        part = ",".join(map(_box_json, boxes[start : start + _BOXES]))
        yield (f",{part}" if start else part).encode()
    yield b"\n    ]\n}" if boxes else b"]\n}"


def _box_json(box: "Subvolume") -> str:
    return (
        f'\n        {{\n            "MinPoint": {_triple(box.min_point, 3)},\n'
        f'            "MaxPoint": {_triple(box.max_point, 3)},\n'
        f'            "MinChunk": {_triple(box.min_chunk, 3)},\n'
        f'            "MaxChunk": {_triple(box.max_chunk, 3)},\n'
        f'            "TotalBlocks": {box.total},\n            "ActiveBlocks": {box.active}\n        }}'
    )


def _triple(values: "XYZ", depth: int) -> str:
    inner = f",\n{_INDENT * (depth + 1)}".join(map(str, values))
    return f"[\n{_INDENT * (depth + 1)}{inner}\n{_INDENT * depth}]"


ENDPOINTS = RoiTable(
    endpoints=(
        Endpoint(("GET",), ("help",), get_help, "getInstanceHelp", "read"),
        Endpoint(("POST",), ("help",), get_help, "postInstanceHelp", "read"),
        Endpoint(("GET",), ("info",), get_info, "getInstanceInfo", "read"),
        Endpoint(("POST",), ("info",), get_info, "postInstanceInfo", "read"),
        Endpoint(("GET",), ("roi",), get_roi, "getRoi", "read"),
        Endpoint(("HEAD",), ("roi",), get_roi, "headRoi", "read"),
        Endpoint(("POST",), ("roi",), post_roi, "postRoi", "write"),
        Endpoint(("DELETE",), ("roi",), delete_roi, "deleteRoi", "write"),
        Endpoint(("GET",), ("mask", "{dims?}", "{size?}", "{offset?}"), get_mask, "getRoiMask", "read"),
        Endpoint(("POST",), ("ptquery",), post_ptquery, "postRoiPtquery", "query"),
        Endpoint(("GET",), ("partition",), get_partition, "getRoiPartition", "read"),
    ),
    methods=("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
)
"""What `DataType.endpoints` of roi names."""
