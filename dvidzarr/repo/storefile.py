"""`store.json`: the identity and the format version of a store. Created once; an unknown version is refused."""

from pathlib import Path

import orjson

from dvidzarr.core.errors import ConflictError, StorageError
from dvidzarr.core.ids import is_uuid, new_id, now
from dvidzarr.storage.local import LocalBackend

FORMAT = 1


def read_store(folder: Path) -> str | None:
    """Return the id of the store in a folder, None if the folder is missing or empty."""
    try:
        note = orjson.loads((folder / "store.json").read_bytes())
    except FileNotFoundError:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageError(
                f"{folder} is no dvidzarr store: it has no store.json, and it is not an empty folder"
            ) from None
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise StorageError(f"{folder}/store.json cannot be read: {error}") from error
    version = note.get("format") if isinstance(note, dict) else None
    if version != FORMAT:
        raise StorageError(
            f"{folder} has format version {version!r}; this dvidzarr knows only version {FORMAT}"
        )
    if not is_uuid(str(note.get("id"))):
        raise StorageError(f"{folder}/store.json names no store id")
    return str(note["id"])


def create_store(folder: Path, *, create: bool) -> str:
    """Create a store in a missing or empty folder; return its id."""
    if not create:
        raise StorageError(f"{folder} is no dvidzarr store: it does not exist or is empty")
    store_id = new_id()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        backend = LocalBackend(folder)
        note = orjson.dumps({"format": FORMAT, "id": store_id, "created": now()}, option=orjson.OPT_INDENT_2)
        made = backend.create("store.json", note, sync=True)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror or error}") from error
    if not made:
        raise ConflictError(f"{folder} is being created by another process; try again")
    backend.make_folder("repos")
    backend.sync_folder("repos")
    return store_id
