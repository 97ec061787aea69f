"""The mutation record of an instance, read from its log, in DVID's form (spec-keyvalue §2.9)."""

import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from dvidzarr.datatypes.keyvalue.model import KeyValueInstance
from dvidzarr.storage.words import DOCUMENT_KINDS, words_of
from dvidzarr.wire.gotext import go_json, go_time, utf8_text

if TYPE_CHECKING:
    from dvidzarr.repo.dag import Version
    from dvidzarr.storage.frames import Entry

_IN_MEMORY = 8 << 20
_PIECE = 1 << 20


def _all(instance: KeyValueInstance) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (id of the version, mutation) of the whole log."""
    instance.dataset.follow()
    dag = instance.repo.dag
    voided = instance.dataset.voided
    for entry in instance.records():
        if entry.kind in DOCUMENT_KINDS and entry.sequence not in voided:
            at = entry.header.get("at", entry.header["v"])
            uuid = dag.versions[dag.by_id[at]].uuid
            yield from ((at, mutation) for mutation in _of(entry, uuid))


def _of(entry: "Entry", uuid: str) -> Iterator[dict[str, Any]]:
    time = go_time(entry.header["t"])
    for word in words_of(entry):
        key = utf8_text(bytes(entry.payload[word.start : word.value_start]))
        about = {"Key": key, "Timestamp": time, "UUID": uuid}
        if word.length is None:
            yield {"Action": "delete", **about}
        else:
            yield {"Action": "postkv", "Bytes": word.length, **about}


def encoded_by_version(instance: KeyValueInstance, versions: "Sequence[Version]") -> Iterator[bytes]:
    """Yield the mutations of several versions, version by version, as one text with commas between them.

    One pass over the log, into a temporary file: neither time nor memory grow with the number of versions.
    """
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        comma = b""
        for start, stop in _collect(instance, versions, file):
            yield comma
            comma = b","
            file.seek(start)
            for at in range(start, stop, _PIECE):
                yield file.read(min(_PIECE, stop - at))


def _collect(
    instance: KeyValueInstance, versions: "Sequence[Version]", file: IO[bytes]
) -> list[tuple[int, int]]:
    """Write the mutations into a file as the log has them; return the parts of it, ordered by version."""
    parts: dict[str, list[tuple[int, int]]] = {version.id: [] for version in versions}
    end, last = 0, ""
    for at, mutation in _all(instance):
        if at not in parts:
            continue
        if at == last:
            end += file.write(b",")
            start = parts[at].pop()[0]
        else:
            start = end
        end += file.write(go_json(mutation))
        parts[at].append((start, end))
        last = at
    return [part for each in parts.values() for part in each]
