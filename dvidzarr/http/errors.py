"""Exception to status, in one table."""

from dvidzarr.core.errors import (
    BusyError,
    DvidzarrError,
    NoDescriptorError,
    NoSpaceError,
    StorageError,
    TooLargeError,
)


class BodyTimeoutError(DvidzarrError):
    """The body stopped arriving."""


STATUS: tuple[tuple[type[DvidzarrError], int], ...] = (
    (BodyTimeoutError, 408),
    (TooLargeError, 413),
    (BusyError, 503),
    (NoDescriptorError, 503),
    (NoSpaceError, 507),
    (StorageError, 500),
    # DVID answers nearly every refusal with 400, unknown versions and missing rights included
    (DvidzarrError, 400),
)
"""First match wins."""


class PlainError(DvidzarrError):
    """An answer with exactly this status and text, without the path that DVID adds to other messages."""

    def __init__(self, status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
        super().__init__(status, text, content_type)
        self.status = status
        self.text = text
        self.content_type = content_type

    def __str__(self) -> str:
        return self.text


def status_of(error: DvidzarrError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, PlainError):
        return error.status
    return next(status for kind, status in STATUS if isinstance(error, kind))


def not_found() -> PlainError:
    """Return the answer to a path or verb above the instances that does not exist: 404, never 405."""
    return PlainError(404, "404 page not found")
