"""The imageblk family over HTTP: the table of its endpoints, and those about the instance itself."""

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import Box
from dvidzarr.datatypes.voxels import http_arb, http_blocks, http_raw
from dvidzarr.datatypes.voxels.http_pieces import row, voxel_view
from dvidzarr.datatypes.voxels.info import axes, metadata
from dvidzarr.http.endpoint import Call, EndpointTable
from dvidzarr.http.instancehelp import get_help
from dvidzarr.http.jsonbody import receive_json
from dvidzarr.http.repojson import instance_json
from dvidzarr.http.response import Response
from dvidzarr.http.responses import empty, json_value, octets
from dvidzarr.wire.gotext import go_json

_ND_DATA = "application/vnd.dvid-nd-data+json"
_DIMENSIONS = 3
_FLOAT32_MAX = 3.4028234e38
_INT32 = range(-(1 << 31), 1 << 31)


async def get_info(call: Call) -> Response:
    """Answer info."""
    view = await voxel_view(call)
    return json_value(instance_json(view.instance, view.version))


async def get_metadata(call: Call) -> Response:
    """Answer metadata; its JSON ends with a newline."""
    view = await voxel_view(call)
    settings, extents = view.instance.settings, view.extents
    nd_axes = axes(extents, settings.voxel_size_xyz, settings.voxel_units_xyz)
    return octets(go_json(metadata(view.instance.properties(extents), nd_axes)) + b"\n", _ND_DATA)


async def post_extents(call: Call) -> Response:
    """Answer POST extents: sets those of this version; a missing member counts as zero."""
    body = await receive_json(call)
    if body is None:  # to Go an object without members
        body = {}
    if not isinstance(body, dict):
        raise InvalidInputError("extents must be an object with MinPoint and MaxPoint")
    members = {key.lower(): value for key, value in body.items()}
    low, high = (int32_point(members.get(name)) for name in ("minpoint", "maxpoint"))
    box = Box.from_xyz(low, [b - a + 1 for a, b in zip(low, high, strict=True)])
    view = await voxel_view(call)
    await call.offload(lambda: view.set_extents(box, author=call.author))
    return empty()


def int32_point(value: object) -> tuple[int, int, int]:
    """Return x, y, z as Go decodes `[3]int32`: null and missing numbers are 0, surplus ones ignored."""
    numbers = [] if value is None else value
    if not isinstance(numbers, list):
        raise InvalidInputError(f"a point must be a list of three integers, not {numbers!r:.40}")
    padded = [0 if number is None else number for number in (*numbers, 0, 0, 0)[:_DIMENSIONS]]
    if not all(type(number) is int and number in _INT32 for number in padded):
        raise InvalidInputError(f"a point must be three 32-bit integers, not {numbers!r:.80}")
    return (padded[0], padded[1], padded[2])


async def post_resolution(call: Call) -> Response:
    """Answer POST resolution: sets VoxelSize for all versions."""
    numbers = await receive_json(call)
    if not (isinstance(numbers, list) and len(numbers) == _DIMENSIONS and all(map(_is_float32, numbers))):
        raise InvalidInputError(
            f"resolution must be three numbers within ±{_FLOAT32_MAX}, such as [4.0, 4.0, 40.0]"
        )
    sizes, view = [float(number) for number in numbers], await voxel_view(call)
    await call.offload(lambda: view.instance.set_resolution(sizes, author=call.author))
    return empty()


def _is_float32(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _FLOAT32_MAX


async def get_rawkey(call: Call) -> Response:
    """Answer rawkey, empty as DVID does: there are no keys that its help could mean (§6.11)."""
    if len(call.parts) > 1:
        raise InvalidInputError(
            "rawkey endpoint should be followed by query strings (x, y, and z) giving block coord"
        )
    return empty()


ENDPOINTS = EndpointTable(
    endpoints=(
        row(("GET",), ("help",), get_help, "getInstanceHelp", "read"),
        row(("POST",), ("help",), get_help, "postInstanceHelp", "read"),
        row(("GET",), ("info",), get_info, "getInstanceInfo", "read"),
        row(("GET",), ("metadata",), get_metadata, "getVoxelsMetadata", "read"),
        row(("POST",), ("metadata",), get_metadata, "postVoxelsMetadata", "read"),
        row(("POST",), ("extents",), post_extents, "postVoxelsExtents", "write"),
        row(("POST",), ("resolution",), post_resolution, "postVoxelsResolution", "write"),
        row(("GET",), ("rawkey",), get_rawkey, "getVoxelsRawkey", "read"),
        row(("POST",), ("rawkey",), get_rawkey, "postVoxelsRawkey", "read"),
        *http_raw.ROWS,
        *http_blocks.ROWS,
        *http_arb.ROWS,
    )
)
"""What `DataType.endpoints` of the imageblk family names."""
