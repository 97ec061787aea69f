"""A region of interest at one version, of a store in a folder or of a running server."""

from typing import TYPE_CHECKING, Protocol

import orjson

from dvidzarr.core.errors import StorageError

if TYPE_CHECKING:
    from dvidzarr.cli.session import Session
    from dvidzarr.core.ids import Author
    from dvidzarr.datatypes.roi.model import RoiView

Spans = list[list[int]]
"""Runs of blocks: z, y, x0, x1 (inclusive), sorted."""


class Region(Protocol):
    """Runs of blocks."""

    def read(self) -> Spans:
        """Return the spans."""

    def replace(self, spans: Spans) -> None:
        """Make these spans the whole region."""


class LocalRegion:
    """The region of a view."""

    def __init__(self, view: "RoiView", author: "Author") -> None:
        self._view = view
        self._author = author

    def read(self) -> Spans:
        """Return the spans."""
        spans: Spans = self._view.spans.tolist()
        return spans

    def replace(self, spans: Spans) -> None:
        """Make these spans the whole region."""
        self._view.replace(spans, author=self._author)


class RemoteRegion:
    """The region of an instance of a running server."""

    def __init__(self, session: "Session", version: str, name: str) -> None:
        self._session = session
        self._words = ("node", version, name, "roi")

    def read(self) -> Spans:
        """Return the spans."""
        answer = self._session.json("GET", *self._words)
        if not isinstance(answer, list):
            raise StorageError(f"{self._session.url} sent no list of spans for {'/'.join(self._words)}")
        return answer

    def replace(self, spans: Spans) -> None:
        """Make these spans the whole region."""
        self._session.request("POST", *self._words, content=orjson.dumps(spans))
