"""What the voxel handlers share: the typed view, refusals of queries, and piecewise answers."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

from dvidzarr.core.errors import InvalidInputError, NotFoundError
from dvidzarr.http.endpoint import Call, Effect, Endpoint, Handler
from dvidzarr.http.params import is_throttle, parse_int

if TYPE_CHECKING:
    from dvidzarr.datatypes.voxels.view import VoxelView
    from dvidzarr.http.response import Response

_MAX_ATTENUATION = 7


async def voxel_view(call: Call) -> "VoxelView":
    """Return the view that the path names, its instance opened (the first time, that reads logs)."""
    view = cast("VoxelView", call.view)
    if not view.instance.opened:
        await call.offload(lambda: view.instance.dataset)
    return view


def row(
    methods: tuple[str, ...], words: tuple[str, ...], handler: Handler, operation: str, effect: Effect
) -> Endpoint:
    """Return an endpoint that first refuses a bad `attenuation`: DVID checks it for every keyword (§6)."""

    async def handle(call: Call) -> "Response":
        check_attenuation(call.query.get("roi", ""), call.query.get("attenuation", ""))
        return await handler(call)

    return Endpoint(methods, words, handle, operation, effect)


def check_attenuation(roi: str, attenuation: str) -> None:
    """Refuse an attenuation that is no number from 1 to 7; it has no other effect, as in DVID (§6.6)."""
    if roi and attenuation and not 1 <= parse_int(attenuation, 64, "Atoi") <= _MAX_ATTENUATION:
        raise InvalidInputError("Attenuation should be from 1 to 7 (divides by 2^n)")


def within_roi(call: Call, view: "VoxelView") -> "VoxelView":
    """Return the view within the region of interest that the query names, at the same version (§6.6)."""
    name = call.query.get("roi", "")
    if not name:
        return view
    try:
        return view.masked(name)
    except NotFoundError as error:
        raise InvalidInputError(f'Can\'t get ROI with name "{name}": {error}') from error


def throttle(call: Call) -> AbstractContextManager[None]:
    """Hold a slot while the request runs if it asks for throttling; `BusyError` if none is free."""
    return call.runtime.throttled() if is_throttle(call.query.get("throttle")) else nullcontext()
