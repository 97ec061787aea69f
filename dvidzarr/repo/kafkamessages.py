"""Events as the messages that DVID publishes (spec-server §8.1, spec-keyvalue §2.9)."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from dvidzarr.repo.events import (
    Event,
    InstanceCreated,
    InstanceEvent,
    KeysDeleted,
    KeysPut,
    LogAppended,
    NoteChanged,
    VersionAdded,
    VersionCommitted,
)
from dvidzarr.wire.gotext import go_time, utf8_text

MAX_MESSAGE = 980_000
"""Longest message in bytes; of a longer one the contents go into the blob store."""

_TAG = "tag-"
_NO_TOPIC = re.compile(r"[^a-zA-Z0-9._-]")

Members = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent. The key is a time in Unix nanoseconds; it stays the same when a message is sent again."""

    topic: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of topics; `suffixes` by DataUUID."""

    prefix: str = ""
    suffixes: Mapping[str, str] | None = None

    def of(self, event: Event) -> str:
        """Return the topic of an event: the repo's operations, or the mutations of an instance."""
        what = "repo-ops"
        if isinstance(event, KeysPut | KeysDeleted):
            suffix = (self.suffixes or {}).get(event.instance, "")
            what = f"data-{event.instance}" + (f"-{suffix}" if suffix else "")
        return topic_name(f"{self.prefix}dvidrepo-{event.repo}-{what}")


def topic_name(text: str) -> str:
    """Return a text with "-" for what the name of a topic cannot have."""
    return _NO_TOPIC.sub("-", text)


def messages(event: Event, topics: Topics, put_blob: Callable[[bytes], str]) -> Iterator[Message]:
    """Yield the messages of an event; none if DVID has none for it.

    Parameters
    ----------
    put_blob
        Stores bytes and returns the reference.
    """
    build = _MESSAGES.get(type(event))
    for number, members in enumerate(build(event) if build else ()):
        value = orjson.dumps(members, option=orjson.OPT_SORT_KEYS)
        if len(value) > MAX_MESSAGE:
            about = {"Action": members["Action"], "DataRef": put_blob(value)}
            value = orjson.dumps(about, option=orjson.OPT_SORT_KEYS)
        # a record's time in microseconds; records of one group commit share it
        key = round(event.time * 1e6) * 1000 + (event.sequence + number) % 1000
        yield Message(topics.of(event), str(key).encode(), value)


def _added(event: VersionAdded) -> Iterator[Members]:
    if len(event.parents) != 1:  # DVID publishes neither new repos nor merges
        return
    about = {"Parent": event.parents[0], "Child": event.version, "Note": event.note}
    if event.branch == f"{_TAG}{event.version}":
        yield {"Action": "tag", "Branch": event.branch, "Tag": event.version, **about}
    elif event.branch != event.parent_branch:
        yield {"Action": "branch", "Branch": event.branch, **about}
    else:
        yield {"Action": "newversion", **about}


def _committed(event: VersionCommitted) -> Iterator[Members]:
    if event.branch != f"{_TAG}{event.version}":  # the second half of making a tag
        yield {"Action": "commit", "UUID": event.version, "Note": event.note, "Log": _lines(event.lines)}


def _note(event: NoteChanged) -> Iterator[Members]:
    yield {"Action": "nodenote", "UUID": event.version, "Note": event.note}


def _log(event: LogAppended) -> Iterator[Members]:
    if event.version:
        yield {"Action": "nodelog", "UUID": event.version, "Log": _lines(event.lines)}


def _lines(stamped: tuple[str, ...]) -> list[str]:
    """Return lines of a log as they were given: without "<time>  "."""
    return [line.partition("  ")[2] for line in stamped]


def _created(event: InstanceCreated) -> Iterator[Members]:
    yield {
        "Action": "newinstance",
        "UUID": event.version,
        "Typename": event.type_name,
        "Dataname": event.name,
    }


def _put(event: KeysPut) -> Iterator[Members]:
    for key, length in event.keys if _has_keys(event) else ():
        yield {"Action": "postkv", "Key": utf8_text(key), "Bytes": length, **_when(event, event.version)}


def _deleted(event: KeysDeleted) -> Iterator[Members]:
    for key in event.keys if _has_keys(event) else ():
        yield {"Action": "delete", "Key": utf8_text(key), **_when(event, event.version)}


def _has_keys(event: InstanceEvent) -> bool:
    """Tell whether the documents are what users know as keys, not the inner state of another type."""
    return event.type_name == "keyvalue"


def _when(event: Event, version: str) -> Members:
    return {"Timestamp": go_time(event.time), "UUID": version}


_MESSAGES: dict[type[Event], Callable[[Any], Iterator[Members]]] = {
    VersionAdded: _added,
    VersionCommitted: _committed,
    NoteChanged: _note,
    LogAppended: _log,
    InstanceCreated: _created,
    KeysPut: _put,
    KeysDeleted: _deleted,
}
