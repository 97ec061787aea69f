"""`arb`: slices in any orientation (spec-voxels §6.9)."""

import numpy as np

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.datatypes.voxels.arb import ArbPlane, Sampler
from dvidzarr.datatypes.voxels.http_pieces import row, throttle, voxel_view
from dvidzarr.datatypes.voxels.slices import MAX_PICTURE_BYTES, parse_format
from dvidzarr.http.endpoint import Call
from dvidzarr.http.params import parse_float, parse_floats3
from dvidzarr.http.response import Response
from dvidzarr.http.responses import octets
from dvidzarr.wire.images import ImageFormat, encode_image


async def get_arb(call: Call) -> Response:
    """Answer arb, by GET or POST; `roi` is ignored."""
    message = '"arb" must be followed by top-left/top-right/bottom-left/res'
    *corners, res = call.require(message, "topleft", "topright", "bottomleft", "res")
    with throttle(call):
        view = await voxel_view(call)
        instance = view.instance
        if instance.dtype != np.uint8:
            raise InvalidInputError(f"arb interpolates 8-bit voxels only, not {instance.datatype.name}")
        top_left, top_right, bottom_left = (parse_floats3(corner) for corner in corners)
        if 0 in instance.settings.voxel_size_xyz:
            raise InvalidInputError(
                f"arb cannot divide by VoxelSize {list(instance.settings.voxel_size_xyz)} of {instance.name}"
            )
        step = parse_float(res)
        image = parse_format(call.words.get("format", ""))
        plane = ArbPlane.spanned(top_left, top_right, bottom_left, step)
        plane.check(MAX_PICTURE_BYTES)
        sampler = Sampler(
            view, instance.chunk, instance.settings.voxel_size_xyz, instance.settings.background
        )
        async with call.runtime.admit(3 * plane.width * plane.height):
            return octets(await call.offload(_picture, sampler, plane, image), image.media_type)


def _picture(sampler: Sampler, plane: ArbPlane, image: ImageFormat) -> bytes:
    return encode_image(sampler.image(plane), image)


_WORDS = ("arb", "{topleft?}", "{topright?}", "{bottomleft?}", "{res?}", "{format?}")

ROWS = (
    row(("GET",), _WORDS, get_arb, "getVoxelsArb", "read"),
    row(("POST",), _WORDS, get_arb, "postVoxelsArb", "read"),
)
