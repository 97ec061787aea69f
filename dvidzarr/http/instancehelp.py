"""The help of an instance, which all datatypes answer alike."""

from dvidzarr.core.resources import read_resource
from dvidzarr.http.endpoint import Call
from dvidzarr.http.response import Response
from dvidzarr.http.responses import text


async def get_help(call: Call) -> Response:
    """Answer help."""
    return text(read_resource(call.instance.datatype.help).decode() + "\n")
