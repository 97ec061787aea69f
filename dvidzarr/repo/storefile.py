"""`store.json`: the identity and the format version of a store. Created once; an unknown version is refused."""

from pathlib import Path

import orjson

from dvidzarr.core.errors import StorageError
from dvidzarr.core.ids import is_uuid, new_id, now
from dvidzarr.storage.local import LocalBackend
from dvidzarr.storage.locks import WriterLock

FORMAT = 1


def read_store(backend: LocalBackend) -> str | None:
    """Return the id of the store in a folder, None if the folder is missing or empty."""
    folder = backend.url
    if Path(folder).is_file():
        raise StorageError(f"{folder} is a file: a store is a folder")
    raw = backend.get("store.json")
    if raw is None:
        if not backend.is_empty():
            raise StorageError(
                f"{folder} is no dvidzarr store: it has no store.json, and it is not an empty folder"
            )
        return None
    try:
        note = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise StorageError(f"{folder}/store.json cannot be read: {error}") from error
    version = note.get("format") if isinstance(note, dict) else None
    if version != FORMAT:
        raise StorageError(
            f"{folder} has format version {version!r}; this dvidzarr knows only version {FORMAT}"
        )
    if not is_uuid(str(note.get("id"))):
        raise StorageError(f"{folder}/store.json names no store id")
    return str(note["id"])


def create_store(backend: LocalBackend, lock: WriterLock, *, create: bool) -> str:
    """Create a store in a missing or empty folder, as its writer; return its id."""
    if not create:
        raise StorageError(f"{backend.url} is no dvidzarr store: it does not exist or is empty")
    backend.make_root()
    lock.acquire()
    try:
        return read_store(backend) or _write(backend)  # another process may have been quicker
    finally:
        lock.release(clean=True)


def _write(backend: LocalBackend) -> str:
    store_id = new_id()
    note = orjson.dumps({"format": FORMAT, "id": store_id, "created": now()}, option=orjson.OPT_INDENT_2)
    backend.replace("store.json", note)  # whole or not at all, also after a power loss
    backend.make_folder("repos")
    backend.sync_folder("repos")
    return store_id
