"""`blobstore` below any instance (spec-server §4.7). It is unversioned: locks do not concern it."""

import base64
import re
from collections.abc import AsyncIterator, Iterator

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.http.body import check_size, pieces, write_pieces
from dvidzarr.http.endpoint import Call, Endpoint
from dvidzarr.http.errors import PlainError
from dvidzarr.http.pump import BLOCK, gathered
from dvidzarr.http.response import Response
from dvidzarr.http.responses import json_member
from dvidzarr.repo.blobstore import BlobStore
from dvidzarr.storage.places import LOGGED

KEYWORD = "blobstore"

_REFERENCE = re.compile(r"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?")


async def get_blob(call: Call) -> Response:
    """Answer the contents behind a reference."""
    if len(call.parts) < 2 and not call.path.endswith("/"):
        raise InvalidInputError("GET /blobstore requires reference")
    reference = call.parts[1] if len(call.parts) > 1 else ""
    if not _REFERENCE.fullmatch(reference):
        raise InvalidInputError(f'bad GET BLOB for data "{call.instance.name}": illegal base64 data')
    found = await call.offload(_get, _store(call), reference)
    # DVID does not find an empty blob again, whoever stored it (blobstore/refused)
    if found is None or not found[0]:
        raise PlainError(404, f'Reference "{reference}" not found')
    length, contents = found
    return await gathered(call, contents, length=length)


def _store(call: Call) -> BlobStore:
    return call.runtime.catalog.blobs


def _get(store: BlobStore, reference: str) -> tuple[int, Iterator[bytes]] | None:
    return store.get(base64.urlsafe_b64decode(reference))


async def post_blob(call: Call) -> Response:
    """Store the body; answer its reference. Large bodies go to the disk as they come."""
    check_size(call, 0)
    store, size = _store(call), 0
    parts: list[bytes | bytearray] = []
    body = pieces(call)
    async with call.runtime.admit(2 * BLOCK):
        async for piece in body:
            parts.append(piece)
            size += len(piece)
            if size > LOGGED:
                return json_member("reference", await _stream(call, store, b"".join(parts), body))
        reference = await call.offload(store.put, b"".join(parts), call.author)
    return json_member("reference", reference)


async def _stream(call: Call, store: BlobStore, start: bytes, body: AsyncIterator[bytes | bytearray]) -> str:
    writer = await call.offload(store.writer)
    try:
        await write_pieces(call, writer.write, start, body)
        return await call.offload(writer.finish, call.author)
    finally:
        await call.offload(writer.close)


async def refuse_blob(_call: Call) -> Response:
    """Answer any other verb."""
    raise InvalidInputError("can only do GET and POST actions on blobstore endpoint")


_WORDS = ("node", "{uuid}", "{instance}", KEYWORD, "{reference?}")

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(("GET",), _WORDS, get_blob, "getBlob", "read"),
    Endpoint(("POST",), _WORDS, post_blob, "postBlob", "write"),
)

_REFUSAL = Endpoint((), _WORDS, refuse_blob, "refuseBlob", "read")


def blob_endpoint(method: str) -> Endpoint:
    """Return the endpoint for a verb."""
    return next((row for row in ENDPOINTS if method in row.methods), _REFUSAL)
