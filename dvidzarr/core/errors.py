"""Errors by meaning: what a caller can do about it. `http/errors.py` maps them to statuses in one table."""


class DvidzarrError(Exception):
    """Base of all errors raised on purpose. The message names the thing, the value and the limit."""


class InvalidInputError(DvidzarrError):
    """The request or argument can never succeed as it is: mend it."""


class FormatError(InvalidInputError):
    """Bytes that are not what their declared format and geometry say."""


class TooLargeError(InvalidInputError):
    """A size beyond a configured limit: ask for less."""


class NotFoundError(DvidzarrError):
    """A version, instance, key or object that does not exist."""


class ConflictError(DvidzarrError):
    """The name or state asked for is taken or does not allow it (name exists, version not locked, …)."""


class VersionLockedError(ConflictError):
    """A write to a version that is locked: write to a child version."""


class ForbiddenError(DvidzarrError):
    """The caller lacks the right (admin), or the store is open for reading only."""


class BusyError(DvidzarrError):
    """Another process or a drain is in the way: try again later, or as the message says."""


class StorageError(DvidzarrError):
    """The store failed: an operating system error, a missing object, an unknown format version."""


class CorruptionError(StorageError):
    """Bytes on the store are not those that were written. Run `dvidzarr verify`."""


class NoDescriptorError(StorageError):
    """The process or the system has too many files and connections open; try again."""


class NoSpaceError(StorageError):
    """The disk or quota is full. Nothing was changed."""
