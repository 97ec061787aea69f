"""labelblk over HTTP: what it has beside the voxel endpoints (spec-voxels §7)."""

import hashlib
import math
from typing import TYPE_CHECKING, cast

import numpy as np

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.datatypes.labelblk.http_raw import ROWS as RAW_ROWS
from dvidzarr.datatypes.voxels.http import get_info, get_metadata, int32_point, post_resolution
from dvidzarr.datatypes.voxels.http_blocks import Encoder, Form, aligned_span, answer_blocks, framer, refusing
from dvidzarr.datatypes.voxels.http_pieces import throttle, voxel_view
from dvidzarr.http.body import receive_small
from dvidzarr.http.endpoint import Call, Endpoint, EndpointTable
from dvidzarr.http.instancehelp import get_help
from dvidzarr.http.jsonbody import parse_json, receive_first_json, text_member
from dvidzarr.http.params import parse_point3, quoted
from dvidzarr.http.response import Response
from dvidzarr.http.responses import empty, octets
from dvidzarr.wire.compression import lz4_encode

if TYPE_CHECKING:
    from dvidzarr.datatypes.labelblk.model import LabelInstance
    from dvidzarr.datatypes.labelblk.view import LabelView

_SMALL_CHUNK = 1 << 18
"""Voxels of a chunk up to which one label is looked up without a hop to the pool."""


async def get_label(call: Call) -> Response:
    """Answer label: the one at a voxel."""
    (text,) = call.require("DVID requires coord to follow 'label' command", "coord")
    x, y, z = parse_point3(text)
    view = cast("LabelView", await voxel_view(call))
    point = np.array([[z, y, x]])
    small = math.prod(view.instance.chunk) <= _SMALL_CHUNK
    labels = view.labels_at(point) if small else await call.offload(view.labels_at, point)
    return octets(b'{"Label": %d}' % labels[0], "application/json")


async def get_labels(call: Call) -> Response:
    """Answer labels: those at the voxels that the body lists."""
    body = await receive_small(call)
    view = cast("LabelView", await voxel_view(call))
    given = call.query.get("hash", "")
    if given:
        real = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if real != given:
            raise InvalidInputError(f"content hash incorrect.  expected {real}, got {quoted(given)[1:-1]}")
    depth = call.runtime.settings.limits.max_json_depth
    return octets(await call.offload(_labels_of, view, body, depth), "application/json")


def _labels_of(view: "LabelView", body: bytes, depth: int) -> bytes:
    labels = view.labels_at(_points_zyx(parse_json(body, depth)))
    return f"[{','.join(map(str, labels.tolist()))}]".encode()


def _points_zyx(value: object) -> "np.ndarray":
    """Return points (n, 3), z, y, x, of a list of x, y, z."""
    if value is None:
        value = []
    if not isinstance(value, list):
        raise InvalidInputError("Bad labels request JSON: it must be a list of points [x, y, z]")
    points = [int32_point(point) for point in value]
    return np.array(points, np.int64).reshape(-1, 3)[:, ::-1]


async def get_label_blocks(call: Call) -> Response:
    """Answer GET blocks: frames of an aligned box; a payload is a bare LZ4 block, or plain (§7.6)."""
    with throttle(call):
        view = await voxel_view(call)
        asked, stored = call.query.get("compression", ""), view.instance.compression
        if asked not in ("", "lz4", "uncompressed"):
            raise InvalidInputError(
                f"don't understand 'compression' query string value: {quoted(asked)[1:-1]}"
            )
        encode: Encoder = memoryview if asked == "uncompressed" else lz4_encode
        if asked != "uncompressed" and stored != "lz4":
            encode = refusing(f"Expected internal block data to be LZ4, was {stored} instead.")
        return await answer_blocks(call, Form(view.blocks, framer(encode)), [aligned_span(call, view)])


async def refuse_post_blocks(_call: Call) -> Response:
    """Answer POST blocks."""
    raise InvalidInputError("DVID does not accept the post action on the 'blocks' endpoint")


async def post_sync(call: Call) -> Response:
    """Answer POST sync: become the half resolution of other label instances (§7.2)."""
    names = text_member(await receive_first_json(call), "sync")
    if names is None:
        raise InvalidInputError("Could not find 'sync' value in POSTed JSON to sync request.")
    chosen = [name for name in names.split(",") if name]
    replace = call.query.get("replace") == "true"
    instance = cast("LabelInstance", call.instance)
    await call.offload(lambda: instance.set_syncs(chosen, author=call.author, replace=replace))
    return empty()


ENDPOINTS = EndpointTable(
    endpoints=(
        Endpoint(("GET",), ("help",), get_help, "getInstanceHelp", "read"),
        Endpoint(("POST",), ("help",), get_help, "postInstanceHelp", "read"),
        Endpoint(("DELETE",), ("help",), get_help, "deleteLabelsHelp", "read"),
        Endpoint(("GET",), ("info",), get_info, "getInstanceInfo", "read"),
        Endpoint(("POST",), ("info",), get_info, "postInstanceInfo", "read"),
        Endpoint(("DELETE",), ("info",), get_info, "deleteLabelsInfo", "read"),
        Endpoint(("GET",), ("metadata",), get_metadata, "getVoxelsMetadata", "read"),
        Endpoint(("POST",), ("metadata",), get_metadata, "postVoxelsMetadata", "read"),
        Endpoint(("DELETE",), ("metadata",), get_metadata, "deleteLabelsMetadata", "read"),
        Endpoint(("POST",), ("resolution",), post_resolution, "postVoxelsResolution", "write"),
        Endpoint(("DELETE",), ("resolution",), post_resolution, "deleteLabelsResolution", "write"),
        Endpoint(("POST",), ("sync",), post_sync, "postLabelsSync", "write"),
        Endpoint(("GET",), ("label", "{coord?}"), get_label, "getLabelsLabel", "read"),
        Endpoint(("POST",), ("label", "{coord?}"), get_label, "postLabelsLabel", "read"),
        Endpoint(("DELETE",), ("label", "{coord?}"), get_label, "deleteLabelsLabel", "read"),
        Endpoint(("GET",), ("labels",), get_labels, "getLabelsLabels", "read"),
        Endpoint(("GET",), ("blocks", "{size?}", "{offset?}"), get_label_blocks, "getVoxelsBlocks", "read"),
        Endpoint(
            ("POST",), ("blocks", "{size?}", "{offset?}"), refuse_post_blocks, "postVoxelsBlocks", "write"
        ),
        *RAW_ROWS,
    ),
    methods=("GET", "POST", "DELETE"),
    refusal="labelblk only handles GET, POST, and DELETE HTTP verbs",
)
"""What `DataType.endpoints` of labelblk names."""
